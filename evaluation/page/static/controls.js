/* The character of a lesion: one row for each attribute that the pipeline knows. */

export class Character {
  constructor(element, attributes, onChange) {
    this.rows = attributes.map((attribute) => row(attribute, onChange));
    element.replaceChildren(...this.rows.map(({frame}) => frame));
  }

  get value() {
    const asked = this.rows.filter(({asked}) => asked.checked);
    return Object.fromEntries(asked.map(({name, slider}) => [name, Number(slider.value)]));
  }

  set value(attributes) {
    for (const {name, names, asked, slider, show} of this.rows) {
      asked.checked = name in attributes;
      if (asked.checked) slider.value = names[attributes[name]] ?? attributes[name];
      show();
    }
  }
}

function row({name, low, high, names, used_by: usedBy, label, cost, met}, onChange) {
  const frame = document.createElement("div");
  frame.className = "attribute";
  frame.innerHTML = `<label class="ask"><input type="checkbox"> <span></span></label><input type="range">
    <output></output><span class="note"></span>`;
  const [asked, slider] = frame.querySelectorAll("input");
  const [output, note] = [frame.querySelector("output"), frame.querySelector(".note")];
  frame.querySelector("label span").textContent = label ?? name;
  asked.id = `ask-${name}`;
  slider.id = `set-${name}`;
  slider.setAttribute("aria-label", label ?? name);
  Object.assign(slider, {min: low, max: high, step: high - low > 10 ? 10 : 0.5, value: Math.round((low + high) / 2)});
  note.textContent = [`used by ${usedBy.join(", ")}`, cost, met].filter(Boolean).join("; ");
  const show = () => {
    const word = Object.entries(names).find(([, number]) => number === Number(slider.value))?.[0];
    output.textContent = asked.checked ? word ?? slider.value : "any";
    frame.classList.toggle("asked", asked.checked);
  };
  asked.addEventListener("change", () => { show(); onChange(); });
  slider.addEventListener("input", () => { asked.checked = true; show(); onChange(); });
  show();
  return {name, names, frame, asked, slider, show};
}
