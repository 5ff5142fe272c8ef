// A document as it is written down: headings, sentences, tables, figures; as Markdown and as one HTML file. Pure.
import { escape } from "./svg";

/** `heat` is the difference that colours a cell; `note` stands small behind the text. */
export type Cell = { text: string; note?: string; href?: string; tone?: "ok" | "bad" | "muted"; heat?: string; isOwn?: boolean; title?: string };
export type Column = { text: string; isNumber?: boolean; title?: string; /** Where its head leads. */ href?: string; /** On a phone it takes a line of its own. */ isWide?: boolean; /** Nothing of it goes to a second line. */ isOneLine?: boolean };
export type Row = { key: string; cells: Cell[]; isStrong?: boolean; title?: string };
export type Table = { columns: Column[]; rows: Row[]; isSmall?: boolean; isMatrix?: boolean };

export type Block =
  | { kind: "heading"; text: string; /** What tools may be put below it. */ id?: string }
  | { kind: "text"; text: string; tone?: "headline" | "small" }
  | { kind: "list"; items: string[] }
  | { kind: "table"; table: Table }
  | { kind: "figure"; caption: string; svg: (width: number) => string }
  | { kind: "code"; text: string };

/** Pixels of a figure on paper. */
const FIGURE = 720;

const plain = (text: string) => text.replace(/[\\`*_{}[\]<>#|~]/g, (letter) => `\\${letter}`).replace(/\s*\n\s*/g, " ");
const cellText = ({ text, note }: Cell) => plain([text, note].filter(Boolean).join(" "));

function markdownTable({ columns, rows }: Table): string {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  return [
    line(columns.map((column) => plain(column.text))),
    line(columns.map((column) => (column.isNumber ? "---:" : "---"))),
    ...rows.map((row) => line(row.cells.map((cell) => { const text = cellText(cell); return text !== "" && (row.isStrong || cell.isOwn) ? `**${text}**` : text; }))),
  ].join("\n");
}

function markdownBlock(block: Block): string[] {
  switch (block.kind) {
    case "heading": return [`## ${plain(block.text)}`];
    case "text": return [plain(block.text)];
    case "list": return block.items.length > 0 ? [block.items.map((item) => `- ${plain(item)}`).join("\n")] : [];
    case "table": return [markdownTable(block.table)];
    // Markdown draws nothing: what the figure shows stands in the table beside it.
    case "figure": return [];
    case "code": return [`\`\`\`\n${block.text}\n\`\`\``];
  }
}

/** A Markdown file. */
export const markdownOf = (title: string, blocks: Block[]): string => [`# ${plain(title)}`, ...blocks.flatMap(markdownBlock)].join("\n\n") + "\n";

/** Classes as an attribute; none where there is none. */
const classes = (...names: (string | false | undefined)[]) => { const found = names.filter(Boolean).join(" "); return found ? ` class="${found}"` : ""; };

function htmlTable({ columns, rows, isSmall, isMatrix }: Table): string {
  const head = columns.map((column) => `<th${classes(column.isNumber && "number")}>${escape(column.text)}</th>`).join("");
  const cell = (found: Cell, column: Column | undefined) =>
    `<td${classes(column?.isNumber && "number", column?.isOneLine && "one-line", found.tone, found.isOwn && "own")}${found.heat ? ` style="background:${found.heat}"` : ""}>${escape(found.text)}${found.note ? ` <span class="note">${escape(found.note)}</span>` : ""}</td>`;
  const body = rows.map((row) => `<tr${classes(row.isStrong && "strong")}>${row.cells.map((found, i) => cell(found, columns[i])).join("")}</tr>`).join("\n");
  return `<div class="scroll"><table${classes(isSmall && "small", isMatrix && "matrix")}><thead><tr>${head}</tr></thead><tbody>\n${body}\n</tbody></table></div>`;
}

function htmlBlock(block: Block): string {
  switch (block.kind) {
    case "heading": return `<h2>${escape(block.text)}</h2>`;
    case "text": return `<p${classes(block.tone, block.tone === "small" && "muted")}>${escape(block.text)}</p>`;
    case "list": return `<ul class="small">${block.items.map((item) => `<li>${escape(item)}</li>`).join("")}</ul>`;
    case "table": return htmlTable(block.table);
    case "figure": return `<div class="figure">${block.svg(FIGURE)}</div>${block.caption ? `<p class="small muted">${escape(block.caption)}</p>` : ""}`;
    case "code": return `<pre>${escape(block.text)}</pre>`;
  }
}

/** One HTML file that needs no other: `css` is all that it looks like. It asks for nothing and runs nothing. */
export function htmlOf(title: string, blocks: Block[], { language, css }: { language: string; css: string }): string {
  return [
    `<!doctype html>`, `<html lang="${language}">`, `<meta charset="utf-8">`, `<meta name="viewport" content="width=device-width, initial-scale=1">`,
    `<meta http-equiv="content-security-policy" content="default-src 'none'; style-src 'unsafe-inline'">`, `<meta name="color-scheme" content="light dark">`,
    `<title>${escape(title)}</title>`, `<style>${css}</style>`, `<main class="document">`, `<h1>${escape(title)}</h1>`, ...blocks.map(htmlBlock), `</main>`, "",
  ].join("\n");
}
