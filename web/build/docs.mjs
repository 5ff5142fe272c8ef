// The documentation as pages of the dashboard, made when it is built: Markdown becomes HTML, links lead to pages, code gets
// its language, and what is searched is cut into sections. `pagesOf` reads the repository; all else is pure.
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { posix } from "node:path";
import MarkdownIt from "markdown-it";

/** What is below docs/, and these. */
const OTHERS = ["ARCHITECTURE.md", "CHANGELOG.md", "server/python/README.md"];
/** Files that are shown as they are where a page links to them. */
const TEXTS = /\.(toml|ya?ml|service|sh|rs|py)$|\/[A-Z]\w+$/;
/** Where the dashboard itself shows what a file has. */
const SHOWN = { "server/openapi.json": "api" };

/** The address of a file below /docs: docs/how-to/fleet.ja.md is how-to/fleet, docs/README.md the first page. */
export function nameOf(file) {
  const plain = file.replace(/\.ja\.md$/, ".md").replace(/\.md$/, "");
  if (plain === "docs/README") return "";
  return plain.startsWith("docs/") ? plain.slice("docs/".length) : plain.replace(/\/README$/, "");
}

/** The anchor of a heading, as the hosts of repositories make it. `taken` counts those of the page. */
export function anchorOf(text, taken = new Map()) {
  const slug = text.trim().toLowerCase().replace(/[^\p{L}\p{N}\p{M}\s_-]/gu, "").replace(/\s/g, "-");
  const count = taken.get(slug) ?? 0;
  taken.set(slug, count + 1);
  return count === 0 ? slug : `${slug}-${count}`;
}

/** Where a link of a file leads: an address of the dashboard, another host, or nowhere. `known` are the files that have a page. */
export function addressOf(link, file, known) {
  if (/^[a-z]+:/i.test(link)) return link;
  const [path, anchor = ""] = link.split("#");
  const target = path ? posix.normalize(posix.join(posix.dirname(file), decodeURI(path))).replace(/\/$/, "") : file;
  const hash = anchor ? `#${anchor}` : "";
  if (SHOWN[target]) return SHOWN[target];
  return known.has(target) ? `docs/${nameOf(target)}`.replace(/\/$/, "") + hash : null;
}

const escaped = (text) => text.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);
/** Words of a text without its marks. */
const wordsOf = (tokens) => tokens.map((token) => (token.children ? wordsOf(token.children) : token.type === "softbreak" ? " " : token.content)).join("");

/** A page: its title, HTML, headings, and what a search looks through. `pictures` are files that the HTML has as `%picture 0%`. */
export function pageOf(file, source, known) {
  const markdown = new MarkdownIt({ html: false, linkify: false });
  const pictures = [];
  const taken = new Map();
  const text = source.replace(/^<!--.*?-->\n?/gms, "");
  const { rules } = markdown.renderer;
  rules.image = (tokens, i) => {
    const link = tokens[i].attrGet("src");
    pictures.push(posix.normalize(posix.join(posix.dirname(file), link)));
    return `<img src="%picture ${pictures.length - 1}%" alt="${escaped(tokens[i].content)}" loading="lazy">`;
  };
  rules.fence = (tokens, i) => `<div class="code"><pre tabindex="0"><code>${escaped(tokens[i].content)}</code></pre></div>\n`;
  rules.code_block = rules.fence;
  // A wide table scrolls by itself, not with its page.
  rules.table_open = () => '<div class="scroll" tabindex="0"><table>';
  rules.table_close = () => "</table></div>";
  const tokens = markdown.parse(text, {});
  const headings = [];
  const sections = [{ anchor: "", heading: "", text: "" }];
  for (const [i, token] of tokens.entries()) {
    if (token.type === "heading_open") {
      const words = wordsOf([tokens[i + 1]]);
      const [anchor, level] = [anchorOf(words, taken), Number(token.tag.slice(1))];
      token.attrSet("id", anchor);
      headings.push({ level, anchor, text: words });
      if (level > 1) sections.push({ anchor, heading: words, text: "" });
    } else if (token.type === "inline" || token.type === "fence" || token.type === "code_block") {
      const isHeading = tokens[i - 1]?.type === "heading_open";
      const last = sections.at(-1);
      if (!isHeading) last.text += `${wordsOf(token.type === "inline" ? [token] : [{ content: token.content }])} `;
      for (const child of token.children ?? []) {
        if (child.type !== "link_open") continue;
        const address = addressOf(child.attrGet("href"), file, known);
        if (address === null) child.attrs = [["data-gone", ""]];
        else child.attrSet("href", address);
      }
    }
  }
  const html = markdown.renderer.render(tokens, markdown.options, {}).replace(/<a data-gone="">(.*?)<\/a>/gs, "$1");
  const title = headings.find(({ level }) => level === 1)?.text ?? nameOf(file);
  return { title, html, headings: headings.filter(({ level }) => level === 2), sections: sections.map((section) => ({ ...section, text: section.text.replace(/\s+/g, " ").trim() })).filter(({ text, heading }) => text || heading), pictures };
}

/** A file as it is. */
function plainPage(file, source) {
  return { title: file, html: `<h1>${escaped(file)}</h1><div class="code"><pre tabindex="0"><code>${escaped(source)}</code></pre></div>`, headings: [], sections: [{ anchor: "", heading: "", text: source.replace(/\s+/g, " ").slice(0, 4000) }], pictures: [] };
}

/** Every page of a repository: name, language, and what `pageOf` gives. */
export function pagesOf(root) {
  const below = (folder) => readdirSync(`${root}/${folder}`, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? below(`${folder}/${entry.name}`) : [`${folder}/${entry.name}`]));
  const files = [...below("docs").filter((file) => file.endsWith(".md")), ...OTHERS.filter((file) => existsSync(`${root}/${file}`))].sort();
  const sources = new Map(files.map((file) => [file, readFileSync(`${root}/${file}`, "utf8")]));
  const known = new Set(files.map((file) => file.replace(/\.ja\.md$/, ".md")));
  // What the pages link to is shown too: files as they are, folders as what they hold.
  for (const [file, source] of sources) {
    if (!file.endsWith(".md")) continue;
    for (const [, link] of source.matchAll(/\]\(([^)#\s]+)/g)) {
      if (/^[a-z]+:/i.test(link)) continue;
      const target = posix.normalize(posix.join(posix.dirname(file), link)).replace(/\/$/, "");
      if (target.startsWith("..") || known.has(target) || SHOWN[target] || !existsSync(`${root}/${target}`)) continue;
      const all = statSync(`${root}/${target}`).isDirectory() ? below(target).filter((one) => TEXTS.test(one)) : TEXTS.test(target) ? [target] : [];
      if (statSync(`${root}/${target}`).isDirectory() && all.length > 0) {
        known.add(target);
        sources.set(target, `# ${target}\n\n${all.map((one) => `- [${one.slice(target.length + 1)}](${one.slice(posix.dirname(target).length + 1)})`).join("\n")}\n`);
      }
      for (const one of all) if (!known.has(one)) (known.add(one), sources.set(one, readFileSync(`${root}/${one}`, "utf8")));
    }
  }
  return [...sources].map(([file, source]) => {
    const isMarkdown = file.endsWith(".md") || source.startsWith(`# ${file}\n`);
    return { name: nameOf(file), language: file.endsWith(".ja.md") ? "ja" : "en", ...(isMarkdown ? pageOf(file, source, known) : plainPage(file, source)) };
  });
}

const LIST = "virtual:docs";
const PAGE = "virtual:docs-page/";
const SECTIONS = "virtual:docs-sections";

/** Vite's part: a module with the list, one with what is searched, one for each page. */
export function docs(root) {
  let pages = [];
  const idOf = (page) => `${PAGE}${page.name || "README"}.${page.language}.js`;
  return {
    name: "senmon-docs",
    buildStart() {
      pages = pagesOf(root);
    },
    resolveId: (id) => (id.startsWith(LIST) ? `\0${id}` : null),
    load(id) {
      if (!id.startsWith(`\0${LIST}`)) return null;
      const asked = id.slice(1);
      if (asked === LIST) {
        const rows = pages.map((page) => `{ name: ${JSON.stringify(page.name)}, language: ${JSON.stringify(page.language)}, title: ${JSON.stringify(page.title)}, load: () => import(${JSON.stringify(idOf(page))}) }`);
        return `export const pages = [${rows.join(",\n")}];\nexport const sections = () => import(${JSON.stringify(SECTIONS)});`;
      }
      if (asked === SECTIONS) return `export default JSON.parse(${JSON.stringify(JSON.stringify(pages.flatMap(({ name, language, title, sections }) => sections.map((section) => ({ name, language, title, ...section })))))});`;
      const page = pages.find((one) => idOf(one) === asked);
      if (!page) return null;
      const imports = page.pictures.map((picture, i) => `import picture${i} from ${JSON.stringify(`${root}/${picture}`)};`).join("\n");
      const replaced = page.pictures.map((_, i) => `.replace("%picture ${i}%", picture${i})`).join("");
      return `${imports}\nexport default { title: ${JSON.stringify(page.title)}, headings: ${JSON.stringify(page.headings)}, html: ${JSON.stringify(page.html)}${replaced} };`;
    },
  };
}
