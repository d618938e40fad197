// Copying text.

/** To the clipboard; the button says so for a moment. */
export async function copyText(text, button) {
  const isCopied = (await written(text)) || selected(text);
  button.classList.add(isCopied ? "done" : "failed");
  setTimeout(() => button.classList.remove("done", "failed"), 1200);
}

async function written(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // not allowed, or a page that came over plain HTTP from another machine
  }
}

/** The old way, which needs no secure page. */
function selected(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "visually-hidden";
  const place = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  place?.focus();
  return isCopied;
}
