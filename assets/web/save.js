// Saves a text as a CSV file, without a server. The byte order mark tells spreadsheets that it is UTF-8.
// biome-ignore lint/correctness/noUnusedVariables: part of batch.js and sweep.js
function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
