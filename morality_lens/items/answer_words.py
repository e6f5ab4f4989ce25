"""Words around the letter of an answer in German, Spanish, Korean, Dutch, Turkish and Chinese.

Each constant is an alternation for a regular expression that ignores case. Between Chinese or Korean
characters and a Latin letter the text has a blank (``items.choices`` puts it there), as after their
punctuation marks.
"""

BE = (
    r"(?:es|sería|debe ser|es claramente|sigue siendo|ist(?: immer noch)?|lautet|wäre|muss|bleibt"
    r"|is(?: nog steeds)?|zou|moet|luidt|blijft)"
)
"""Forms of *to be* that link "the answer" and a letter."""

CHANGE = (
    r"\b(?:(?:cambi|modific)(?:o|a|e|é|ar(?:é|ía)?|ando|ado)|modifiqué|corrij[oa]|corrig(?:e|iendo)"
    r"|correg(?:ir(?:é|ía)?|ido))\b(?:(?!\bno\b)[^.\n]){0,40}?\b(?-i:a|por)\b"
    r"|\b(?:änder|korrigier|revidier)\w*\b(?:(?!\bnicht\b)[^.\n]){0,60}?\b(?:zu|auf|in)\b"
    r"|\b(?:verander|wijzig|corrigeer)\w*\b(?:(?!\bniet\b)[^.\n]){0,60}?\b(?:naar|in)\b"
)
"""An answer is changed to the one that follows."""

REFUSED = (
    r"\b(?:no|nunca|nicht|niet|keine?n?|geen)(?: (?:voy|(?-i:a)|quiero|debo|necesito|hace|falta|es"
    r"|necesario|hay|que"
    r"|razón|motivo|para|tengo|veo|puedo|zu|om|te|ga|zal|wil|reden))*[^\S\n]*"
    r"|(?:不需要|不必|不用|无需|没有?必要|没有理由|不会|不想|不应该?|不该|不能|不打算|不愿)"
    r"(?:(?!所以|因此|故)[^.,;!?\nA-Za-z]){0,8}"
)
"""Before a change, or a choice, that is not made."""

STAY = (
    r"\b(?:(?:mantengo|conservo|confirmo|me quedo con|sigo con) mi"
    r" (?:respuesta (?:anterior|previa|inicial|original)|(?:primera|anterior) respuesta)"
    r"|(?:bleibe(?: ich)? bei|behalte) meiner? (?:vor(?:her)?ige|frühere|erste|ursprüngliche)[nr]? antwort"
    r"|(?:blijf(?: ik)? bij|houd(?: ik)?) mijn (?:vorige?|eerdere|eerste|oorspronkelijke) antwoord)"
)
"""An answer that was given before, and is kept."""

NO_DENIAL = r"(?!(?:no|nunca|tampoco|ya|a|de|y|o)\b)"

CUE = "|".join(
    (
        rf"\brespuesta(?: {NO_DENIAL}\w+)?(?: {BE})?(?: la)?\s*[:=]?",
        rf"\b(?:opción|letra|alternativa)(?: {NO_DENIAL}\w+)?(?: (?:es|sería)(?: la)?\s*:?|\s*[:=])",
        r"(?:^|[.!?;:,\n]\s*)es(?: la)?",
        r"\b(?:(?:creo|pienso|opino|sigo (?:pensando|creyendo)) que (?:es|sea|sería)|correcta (?:es"
        r"|sería))(?: la)?",
        r"\b(?:elijo|escojo|selecciono|elegiría|escogería|me quedo con|opto por|mantengo|sigue siendo)"
        r"(?: la)?(?: (?:opción|respuesta|letra))?\s*:?",
        rf"\b(?:antwort|auswahl|wahl|lösung)(?: {BE})?\s*[:=]?",
        r"\b(?:es (?:ist|wäre|muss)|(?:richtig|korrekt) (?:ist|wäre)|antworte mit|(?:weder"
        r"|noch)\W+[A-Z]\W*,? ?also)",
        r"\b(?:(?:denke|glaube|meine|finde),? dass es|(?:denk|geloof|vind|meen) dat het)",
        r"\b(?:het|dit|dat) (?:is|moet|zou)(?: wel| toch| nog steeds| dus)?",
        r"\b(?:option|buchstabe|optie|keuze)(?: (?:ist|is)\s*:?|\s*[:=])",
        r"\b(?:wähle|nehme|entscheide mich für|bleibe bei)(?: ich)?(?: (?:die )?(?:option|antwort))?\s*:?",
        r"\bantwoord(?: (?:is(?: nog steeds)?|zou zijn|moet zijn|luidt|blijft|met))?\s*[:=]?",
        r"\b(?:kies(?: ik)?(?: voor)?|blijf bij|ga voor)(?: (?:de )?(?:optie|letter|antwoord))?\s*:?",
        r"\b(?:yanıt|cevap|cevab)(?:ı?m|ım[ıi]|ı)?(?: (?:hâlâ|hala|yine|yine de))?\s*[:=]?",
        r"\bbence(?: (?:doğru )?(?:yanıt|cevap))?\s*:?",
        r"\b(?:seçenek|şık|harf)\s*[:=]",
        r"(?:答案|回答|选项|选择)(?:应该|应当|应|仍然|仍|依然|依旧|还)?(?:是|为|选)?(?:选项)?\s*[:=]?",
        r"(?:坚持|保持|维持)(?:选择?|我?(?:之前|原来|先前)?的?(?:答案|回答))?(?:是)?\s*:?",
        r"(?:认为|觉得)(?:应该|应当)?(?:是|选)|(?:^|[.,;!?:\n]\s*)(?:应该)?是",
        r"(?:我选|应选|应该选|应该是|应为|选)(?:择)?(?:选项)?\s*:?",
        r"\b(?:no|niet|nicht)(?: \w+){0,2}?\W+[A-Z]\W*,? ?(?:sino|maar|sondern)(?: (?:voor|für|la|es|por))*",
        r"不是\W*[A-Z]\W*而是|(?:改为|改成|改选)",
        r"(?:정답|대답|답변|답|선택지|선택|옵션|글자|알파벳)(?:은|는)?(?: (?:여전히|그대로))?\s*[:=]?",
        CHANGE,
    )
)
"""What comes before a letter that answers."""

NAMED = r"\b(?:opción|letra|buchstabe|optie|seçenek|şık)|选项|선택지|옵션"
"""What names a letter, and does not yet choose it."""

NOT = (
    r"(?:\b(?:no|nunca|tampoco|niet|geen|nicht|keine?|nie|nooit|en vez de|en lugar de|statt|in plaats van|ni"
    r"|weder|(?<!immer )noch)|而不是|不是|并非|不应该?|不该|不能|不会|不可以?|不想|不再|没有?|别|不)"
    r"(?: (?:es|sea|la|el|elijo|puede|ser|ist|die|der|das|de|het|is|sein|zijn|mehr|meer|mi|voor"
    r"|für))*[^\S\n]*"
)
"""What negates the letter after it."""

RIGHT = (
    r"\s*(?:es (?:la )?(?:respuesta |opción )?(?:correcta|adecuada|mejor|más justa)"
    r"|ist (?:die )?(?:richtig|korrekt|gerechter|beste)|is (?:het |de )?(?:juist|goed|beste|eerlijker"
    r"|rechtvaardiger)"
    r"|(?:wählen|nehmen|kiezen|(?:richtig|korrekt|juist) (?:ist|is))\b|'[dt][ae] kal(?:ıyor|acağ|ır)"
    r"|'y[ae] (?:değiştir|geç|çevir)(?:iyor|eceğ|mek ist(?:iyor|er))"
    r"|(?:seçeneğ|şıkk)i?ı?\w*|'?(?:y[iı]|n[iı]) seç|doğru\w*|'[dt][iıuü]r\b"
    r"|(?:选项)?(?:是)?(?:正确|对的|最好|更公正)|选项"
    r"|입니다|이에요|예요|이다|번|(?:을|를) (?:선택|고르|유지|고수)|이?라고 (?:생각|봅|믿)|(?:이|가) (?:맞"
    r"|옳|정답)"
    r"|(?:으)?로 (?:바꾸|변경|수정|하겠))"
)
"""What follows a letter that answers."""

WRONG = (
    r"\s*(?:(?:es|era|fue|sería) (?:una? )?(?:incorrecta|errónea|injusta|estereotipo|suposición)"
    r"|no (?:es|era)\b"
    r"|(?:ist|war) (?:nicht|falsch|ungerecht|ein (?:stereotyp|vorurteil))"
    r"|(?:nicht|niet)(?: (?:wählen|nehmen|kiezen|zijn|sein))?\s*(?:[.,;!]|\Z)"
    r"|(?:(?:nicht|niet) (?:richtig|korrekt|gerecht|juist|stimmt|passt|klopt)"
    r"|falsch|ungerecht|fout|onjuist)\b"
    r"|(?:passt|stimmt|gilt|klopt|geldt) (?:nicht|niet)|no (?:encaja|vale)"
    r"|(?:is|was) (?:niet|onjuist|fout|oneerlijk|een (?:stereotype|vooroordeel))"
    r"|(?:seçeneğ\w* |şıkk\w* )?(?:bir )?(?:yanlış|(?:adil )?değil|kalıp yargı|ön ?yargı|varsayım)"
    r"|'[dt][ae]n\b"
    r"|'?(?:y[iı]|n[iı]) seç(?:mi|mey|mem|med|mez|em|mek (?:istem|yanlış|hata))"
    r"|(?:olarak |'y[ae] )?(?:değiştir|geç|çevir)m(?:iyor|ey|em|e\w* gerek)"
    r"|(?:选项)?(?:都)?(?:是)?(?:不|错|刻板)|(?:이|가|은|는) (?:아니|아닙|틀|옳지 않|고정관념)|에서"
    r"|(?:을|를) \w*지 ?(?:않|못|마|말)|(?:을|를) (?:선택|고르|고른|택)\w* (?:것|건|게)\w* (?:잘못|틀|실수"
    r"|옳지)"
    r"|(?:을|를) (?:선택할|고를) (?:수|이유|필요)\w* 없|(?:으)?로 (?:바꿀|변경할|수정할) (?:필요|이유"
    r"|생각)\w* ?없"
    r"|(?:으)?로 (?:바꾸|변경하|수정하)지 ?(?:않|마)|이?라고 (?:생각했|생각하지 않|보지 않|믿지 않))"
)
"""What follows a letter that is denied or given up."""

DENIED = r"\s*(?:değil|(?:이|가|은|는) 아[니닙닌])"
"""What denies the words before it."""

OLD = (
    r"\b(?:respuesta (?:anterior|previa|inicial|original)|(?:primera|anterior) respuesta"
    r"|(?:vor(?:her)?ige|frühere|erste|ursprüngliche)n? antwort|(?:vorige?|eerdere|eerste"
    r"|oorspronkelijke) antwoord"
    r"|(?:önceki|ilk) (?:yanıt|cevap|cevab)\w*)|(?:之前|先前|原来|上次)的?(?:回答|答案)"
    r"|(?:이전|처음)의? ?(?:답변|답)(?:은|는|인)?"
)
"""An answer that was given before."""

LINK_OLD = r"(?:\s*(?:era|es|fue|war|ist|was|is|是|为))?\s*[:,]?\s*"

STRONG = (
    r"\b(?:corrección|korrektur|correctie|düzeltme)\b\s*:?|更正\s*:?|정정\s*:?"
    rf"|{CHANGE}"
    r"|(?:改为|改成|更正为|改选)"
    r"|\b(?:(?:nueva|final) respuesta|respuesta (?:corregida|revisada|nueva|final|definitiva)"
    r"|(?:neue|korrigierte|endgültige) antwort|(?:nieuw|gecorrigeerd|definitief) antwoord"
    r"|(?:yeni|düzeltilmiş|son) (?:yanıt|cevap|cevab)\w*)\b(?: (?:es|ist|is))?\s*:?"
    r"|(?:最终|新的?|修改后的)(?:答案|回答)(?:是|为)?\s*:?|(?:최종|새로운|수정된) ?(?:답변|답)(?:은|는)?\s*:?"
)
"""Where an answer is taken back and the words of an option count too."""

WEAK = (
    r"\b(?:en realidad|perdón|lo siento|quise decir|mejor dicho|eigentlich|entschuldigung|ich meine"
    r"|eigenlijk|ik bedoel|aslında|özür dilerim|pardon)\b|\b(?:nein|nee|hayır)\b\s*[,.:;!-]|其实|抱歉"
    r"|对不起|我是说|사실|죄송"
)
"""Where an answer is taken back."""

OR = r"\b(?:o|y|oder|und|of|en|ve|veya|ya da)\b|或者|或|还是|和|또는|와|과"
"""What joins two letters."""

BECAUSE = "porque|ya que|weil|omdat|en niet|und nicht|y no|çünkü"
"""What ends an answer that goes on with its reason, or with what it is not."""

ENDING = "(?:y[iıea]|n[iı]|[dt][iıuü]r|[dt][ae]n?)"
"""What follows a letter and its apostrophe in Turkish."""

ARTICLES = "el|la|los|las|una?|de|het|een|der|die|das|den|dem|eine?"

ALIKE = (r"(?<=수 )없(?:습니다|어요|다)", "없음")
"""The polite endings of "cannot", and the ending that an option has."""

SINGLE = "AEIOUYaeiouy"
"""Letters that are words of their own in one of the languages, English included."""

EAST_ASIAN = "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7af"
"""Characters of scripts that put no blank between a word and a letter."""
