(function () {
  "use strict";
  const root = document.querySelector(".ml-transcript");
  const about = JSON.parse(root.querySelector(".mlt-data").textContent);

  async function ask(path, query) {
    let reply;
    try {
      reply = await fetch(path + "?" + new URLSearchParams(query));
    } catch (error) {
      throw new Error("The server has ended; start it again: " + about.command);
    }
    const answer = await reply.json();
    if (!reply.ok) throw new Error(answer.error);
    return answer;
  }

  root.source = {
    about: about,
    goesOn: true,
    list: (query, cursor, size) => ask("/api/list", { ...query, cursor: cursor || "", size }),
    dialogue: (item, condition) => ask("/api/dialogue", { item, condition }),
    tokens: about.directions.length ? (item, condition) => ask("/api/tokens", { item, condition }) : null,
    attention: about.reads ? (item, condition, at) => ask("/api/attention", { item, condition, ...at }) : null,
  };
})();
