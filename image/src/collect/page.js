"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const hosts = byId("hosts"), readers = byId("readers"), problems = byId("problems");
  const columns = ["serial", "model", "build", "result", "banks", "devices", "when", "note"];
  const readerColumns = ["address", "image", "requests", "size", "first", "last", "report"];
  const labels = (body) => [...body.parentNode.querySelectorAll("thead th")].map((head) => head.textContent);
  const hostLabels = labels(hosts), readerLabels = labels(readers);
  const rows = new Map([...hosts.children].map((row) => [row.dataset.key, row]));

  const setText = (node, text) => { if (node.textContent !== text) { node.textContent = text; } };

  const newRow = (names, heads) => {
    const row = document.createElement("tr");
    row.setAttribute("role", "row");
    names.forEach((name, index) => {
      const cell = document.createElement(index ? "td" : "th");
      cell.setAttribute("role", index ? "cell" : "rowheader");
      if (index) { cell.dataset.label = heads[index]; } else { cell.scope = "row"; }
      if (name === "result") { cell.className = name; }
      row.append(cell);
    });
    return row;
  };

  const putHost = (host) => {
    let row = rows.get(host.key);
    if (!row) {
      row = newRow(columns, hostLabels);
      row.dataset.key = host.key;
      row.cells[0].append(document.createElement("a"));
      rows.set(host.key, row);
      hosts.prepend(row);
    }
    row.dataset.well = host.well ? "yes" : "no";
    row.dataset.result = host.result;
    columns.forEach((name, index) => {
      const cell = index ? row.cells[index] : row.cells[0].firstElementChild;
      setText(cell, String(host[name]));
    });
    row.cells[0].firstElementChild.setAttribute("href", "/host/" + encodeURIComponent(host.key));
  };

  const putReaders = (list) => {
    readers.replaceChildren(...list.map((reader) => {
      const row = newRow(readerColumns, readerLabels);
      row.dataset.reported = reader.reported ? "yes" : "no";
      readerColumns.forEach((name, index) => { row.cells[index].textContent = String(reader[name]); });
      return row;
    }));
  };

  const putProblems = (list) => {
    problems.replaceChildren(...list.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
  };

  const count = () => {
    const all = [...rows.values()];
    const notWell = all.filter((row) => row.dataset.well === "no").length;
    setText(byId("counts"), `${all.length} ${all.length === 1 ? "host" : "hosts"}, ${notWell} ${notWell === 1 ? "needs" : "need"} attention`);
  };

  // Said by a screen reader, together where many come at once.
  let news = [];
  const announce = () => {
    if (news.length) { setText(byId("said"), news.length > 3 ? `${news.length} reports came` : news.join(", ")); }
    news = [];
  };
  setInterval(announce, 2000);

  const source = new EventSource("/events");
  const on = (name, put) => source.addEventListener(name, (event) => { put(JSON.parse(event.data)); count(); });
  source.addEventListener("open", () => setText(byId("live"), "Live: new reports appear by themselves."));
  source.addEventListener("error", () => setText(byId("live"), "Not connected to collect; what is shown may be old."));
  on("all", (all) => {
    const keys = new Set(all.hosts.map((host) => host.key));
    for (const [key, row] of rows) { if (!keys.has(key)) { row.remove(); rows.delete(key); } }
    all.hosts.forEach(putHost);
    putReaders(all.readers);
    putProblems(all.problems);
  });
  on("host", (host) => { putHost(host); news.push(`${host.serial}: ${host.result}`); });
  on("readers", putReaders);
  on("problems", putProblems);
})();
