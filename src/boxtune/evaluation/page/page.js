"use strict";
// The gallery's filters: a picture is shown when it has what every select asks for.
(() => {
  const selects = [...document.querySelectorAll("select[data-filter]")];
  const items = [...document.querySelectorAll("[data-item]")];
  const count = document.getElementById("count");
  const apply = () => {
    let shown = 0;
    for (const item of items) {
      const fits = selects.every((select) =>
        select.value === "" || item.getAttribute("data-" + select.dataset.filter).split(" ").includes(select.value));
      item.hidden = !fits;
      shown += fits;
    }
    if (count) count.textContent = shown + " of " + items.length + " pictures";
  };
  for (const select of selects) select.addEventListener("change", apply);
  const reset = document.getElementById("reset");
  if (reset) reset.addEventListener("click", () => { for (const select of selects) select.value = ""; apply(); });
  if (selects.length) apply();
})();
