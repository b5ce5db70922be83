"use strict";
(() => {
  const by = (id) => document.getElementById(id);

  /* Copying a command. */
  const announcement = by("announcement");
  let quiet;
  const say = (text) => {
    announcement.textContent = text;
    announcement.classList.add("on");
    clearTimeout(quiet);
    quiet = setTimeout(() => { announcement.classList.remove("on"); announcement.textContent = ""; }, 2500);
  };
  const copyByHand = (text) => {
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    area.style.top = "0";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    let done = true;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
      done = copyByHand(button.dataset.copy);
    }
    button.focus();
    say(done ? "Command copied" : "Copying is blocked here: " + button.dataset.copy);
  });

  /* The table: sorting by a column's button, filtering by words and status. */
  const table = by("table");
  if (!table) return;  // a page of an evaluation alone
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("thead th[aria-sort]")];
  const value = (row, column) => row.cells[column].dataset.v;
  const sortBy = (column) => {
    const head = heads[column];
    const numeric = head.classList.contains("number");
    const larger = head.classList.contains("larger");
    const now = head.getAttribute("aria-sort");
    const direction = now === "none" ? (larger ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows];
    rows.sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
    });
    body.append(...rows);
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortBy(column)));

  const words = by("filter-text");
  const status = by("filter-status");
  const calm = by("filter-disturbed");
  const texts = new Map([...body.rows].map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const fits = wanted.every((word) => texts.get(row).includes(word))
        && (!status.value || row.dataset.status === status.value)
        && !(calm && calm.checked && "disturbed" in row.dataset);
      row.hidden = !fits;
      shown += fits;
    }
    by("filter-count").textContent = shown === texts.size ? `${shown} rows` : `${shown} of ${texts.size} rows`;
  };
  words.addEventListener("input", filter);
  status.addEventListener("change", filter);
  calm?.addEventListener("change", filter);
  words.form.addEventListener("submit", (event) => event.preventDefault());
  filter();

  /* The viewer: a variant, a frame, a wipe between another picture and the variant. */
  const data = by("viewer-data") && JSON.parse(by("viewer-data").textContent);
  if (!data) return;
  const [variant, frame, left, wipe, stage] = ["variant", "frame", "left", "wipe", "stage"].map((name) => by("viewer-" + name));
  const leftNames = { reference: "Reference", truth: "Truth", input: "Input with the hole tinted" };
  const put = (image, index, text) => {
    image.closest("figure, .stage > img").hidden = index === null;
    if (index === null) return;
    image.src = data.images[index];
    image.alt = text;
  };
  const draw = () => {
    const chosen = data.variants[variant.value];
    const shown = chosen.frames[frame.value];
    const where = `frame ${shown.number}`;
    by("viewer-frame-number").textContent = `${shown.number} (${Number(frame.value) + 1} of ${chosen.frames.length})`;
    frame.setAttribute("aria-valuetext", where);
    for (const option of left.options) option.disabled = shown[option.value] === null;
    if (left.selectedOptions[0].disabled) left.value = "reference";
    put(by("stage-reference"), shown[left.value], `${leftNames[left.value]}, ${where}`);
    by("stage-left-tag").textContent = left.value;
    put(by("stage-result"), shown.result, `${chosen.name}, ${where}`);
    put(by("panel-reference"), shown.reference, `Reference, ${where}`);
    put(by("panel-result"), shown.result, `${chosen.name}, ${where}`);
    put(by("panel-difference"), shown.difference, `Difference of ${chosen.name} from the reference, ${where}`);
    put(by("panel-input"), shown.input, `Input with the hole tinted, ${where}`);
    if (by("panel-truth")) put(by("panel-truth"), shown.truth, `Truth, ${where}`);
    by("viewer-facts").replaceChildren(...[...chosen.facts, ...shown.facts].map((fact) => {
      const line = document.createElement("span");
      line.textContent = fact;
      return line;
    }));
  };
  const choose = () => {
    const last = data.variants[variant.value].frames.length - 1;
    frame.max = last;
    frame.disabled = last === 0;
    frame.value = Math.min(Number(frame.value), last);
    draw();
  };
  const setWipe = (percent) => {
    stage.style.setProperty("--wipe", `${percent}%`);
    wipe.setAttribute("aria-valuetext", `${Math.round(percent)} percent ${left.value}`);
  };
  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    const percent = Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width));
    wipe.value = percent;
    setWipe(percent);
  };
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
  variant.addEventListener("change", choose);
  frame.addEventListener("input", draw);
  left.addEventListener("change", () => { draw(); setWipe(Number(wipe.value)); });
  wipe.addEventListener("input", () => setWipe(Number(wipe.value)));
  choose();
  setWipe(50);
})();
