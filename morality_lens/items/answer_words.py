"""Words around the letter of an answer in German, Spanish, Korean, Dutch, Turkish and Chinese.

Each constant is an alternation for a regular expression that ignores case. Between Chinese or Korean
characters and a Latin letter the text has a blank (``items.choices`` puts it there), as after their
punctuation marks.
"""

BE = r"(?:es|sería|debe ser|es claramente|ist|lautet|wäre|muss|is|zou|moet|luidt)"
"""Forms of *to be* that link "the answer" and a letter."""

CUE = "|".join(
    (
        rf"\brespuesta(?: \w+)?(?: {BE})?(?: la)?\s*[:=]?",
        r"\b(?:opción|letra|alternativa)(?: \w+)?(?: (?:es|sería)(?: la)?\s*:?|\s*[:=])",
        r"\b(?:elijo|escojo|selecciono|elegiría|escogería|me quedo con|opto por|mantengo|sigue siendo)"
        r"(?: la)?(?: (?:opción|respuesta|letra))?\s*:?",
        rf"\b(?:antwort|auswahl|wahl|lösung)(?: {BE})?\s*[:=]?",
        r"\b(?:option|buchstabe|optie|keuze)(?: (?:ist|is)\s*:?|\s*[:=])",
        r"\b(?:wähle|nehme|entscheide mich für|bleibe bei)(?: (?:die )?(?:option|antwort))?\s*:?",
        r"\bantwoord(?: (?:is|zou zijn|moet zijn|luidt))?\s*[:=]?",
        r"\b(?:kies(?: voor)?|blijf bij|ga voor)(?: (?:de )?(?:optie|letter|antwoord))?\s*:?",
        r"\b(?:yanıt|cevap|cevab)(?:ı?m|ım[ıi]|ı)?\s*[:=]?",
        r"\b(?:seçenek|şık|harf)\s*[:=]",
        r"(?:答案|回答|选项|选择)(?:应该|应当|应)?(?:是|为|选)?(?:选项)?\s*[:=]?",
        r"(?:我选|应选|应该选|应该是|应为|选)(?:择)?(?:选项)?\s*:?",
        r"\b(?:no|niet|nicht)\W+[A-Z]\W*,? ?(?:sino|maar|sondern)|不是\W*[A-Z]\W*而是|(?:改为|改成|改选)",
        r"(?:정답|대답|답변|답|선택지|선택|옵션|글자)(?:은|는)?\s*[:=]?",
    )
)
"""What comes before a letter that answers."""

NAMED = r"\b(?:opción|letra|buchstabe|optie|seçenek|şık)|选项|선택지|옵션"
"""What names a letter, and does not yet choose it."""

NOT = (
    r"(?:\b(?:no|nunca|tampoco|niet|geen|nicht|keine?|nie|nooit|en vez de|en lugar de|statt|in plaats van|ni)"
    r"|而不是|不是|并非|不应|不该|不)"
    r"(?: (?:es|sea|la|el|elijo|puede|ser|ist|die|der|das|de|het|is|sein|zijn|mehr|meer|mi))*\s*"
)
"""What negates the letter after it."""

RIGHT = (
    r"\s*(?:es (?:la )?(?:respuesta |opción )?(?:correcta|adecuada|mejor|más justa)"
    r"|ist (?:die )?(?:richtig|korrekt|gerechter|beste)|is (?:het |de )?(?:juist|goed|beste|eerlijker)"
    r"|(?:seçeneğ|şıkk)i?ı?\w*|'?(?:y[iı]|n[iı]) seç|doğru\w*|'[dt][iıuü]r\b"
    r"|(?:选项)?(?:是)?(?:正确|对的|最好|更公正)|选项"
    r"|입니다|이에요|예요|이다|번|(?:을|를) (?:선택|고르)|(?:이|가) (?:맞|옳|정답)"
    r"|(?:으)?로 (?:바꾸|변경|수정|하겠))"
)
"""What follows a letter that answers."""

WRONG = (
    r"\s*(?:(?:es|era|fue|sería) (?:una? )?(?:incorrecta|errónea|injusta|estereotipo|suposición)"
    r"|no (?:es|era)\b"
    r"|(?:ist|war) (?:nicht|falsch|ungerecht|ein (?:stereotyp|vorurteil))"
    r"|(?:is|was) (?:niet|onjuist|fout|oneerlijk|een (?:stereotype|vooroordeel))"
    r"|(?:seçeneğ\w* |şıkk\w* )?(?:yanlış|değil)|'[dt][ae]n\b"
    r"|(?:选项)?(?:是)?(?:不|错|刻板)|(?:이|가|은|는) (?:아니|아닙|틀|옳지 않|고정관념)|에서)"
)
"""What follows a letter that is denied or given up."""

OLD = (
    r"\b(?:respuesta (?:anterior|previa|inicial|original)|(?:primera|anterior) respuesta"
    r"|(?:vorige|frühere|erste|ursprüngliche)n? antwort|(?:vorige|eerdere|eerste|oorspronkelijke) antwoord"
    r"|(?:önceki|ilk) (?:yanıt|cevap|cevab)\w*)|(?:之前|先前|原来|上次)的?(?:回答|答案)"
    r"|(?:이전|처음)의? ?(?:답변|답)(?:은|는|인)?"
)
"""An answer that was given before."""

LINK_OLD = r"(?:\s*(?:era|es|fue|war|ist|was|is|是|为))?\s*[:,]?\s*"

STRONG = (
    r"\b(?:corrección|korrektur|correctie|düzeltme)\b\s*:?|更正\s*:?|정정\s*:?"
    r"|\b(?:cambi|corrij|modific)\w*\b[^.\n]{0,40}?\b(?-i:a|por)\b"
    r"|\b(?:änder|korrigier|revidier)\w*\b[^.\n]{0,60}?\b(?:zu|auf|in)\b"
    r"|\b(?:verander|wijzig|corrigeer)\w*\b[^.\n]{0,60}?\b(?:naar|in)\b"
    r"|(?:改为|改成|更正为|改选)"
    r"|\b(?:(?:nueva|final) respuesta|respuesta (?:corregida|revisada|nueva|final|definitiva)"
    r"|(?:neue|korrigierte|endgültige) antwort|(?:nieuw|gecorrigeerd|definitief) antwoord"
    r"|(?:yeni|düzeltilmiş|son) (?:yanıt|cevap|cevab)\w*)\b(?: (?:es|ist|is))?\s*:?"
    r"|(?:最终|新的?|修改后的)(?:答案|回答)(?:是|为)?\s*:?|(?:최종|새로운|수정된) ?(?:답변|답)(?:은|는)?\s*:?"
)
"""Where an answer is taken back and the words of an option count too."""

WEAK = (
    r"\b(?:en realidad|perdón|lo siento|quise decir|mejor dicho|eigentlich|entschuldigung|ich meine"
    r"|eigenlijk|ik bedoel|aslında|özür dilerim|pardon)\b|其实|抱歉|对不起|我是说|사실|죄송"
)
"""Where an answer is taken back."""

OR = r"\b(?:o|y|oder|und|of|en|ve|veya|ya da)\b|或者|或|和|또는|와|과"
"""What joins two letters."""

ENDING = "(?:y[iı]|n[iı]|[dt][iıuü]r|[dt][ae]n)"
"""What follows a letter and its apostrophe in Turkish."""

ARTICLES = "el|la|los|las|una?|de|het|een|der|die|das|den|dem|eine?"

SINGLE = "AEIOUYaeiouy"
"""Letters that are words of their own in one of the languages, English included."""

EAST_ASIAN = "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7af"
"""Characters of scripts that put no blank between a word and a letter."""
