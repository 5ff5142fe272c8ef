// Somebody's Markdown as HTML that does nothing by itself: their HTML is shown as text, pictures are links, and no link
// runs anything. Loaded when there is something to render. Pure.
import MarkdownIt from "markdown-it";

/** A note stands below the title of its page and its own. */
const LEVELS_ABOVE = 2;

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true });
// A picture would ask another host, and tell it who reads.
markdown.disable("image");
markdown.core.ruler.push("senmon", ({ tokens }) => {
  for (const token of tokens) {
    if (token.type === "heading_open" || token.type === "heading_close") token.tag = `h${Math.min(6, Number(token.tag.slice(1)) + LEVELS_ABOVE)}`;
    for (const child of token.children ?? []) {
      if (child.type === "link_open" && /^[a-z]+:|^\/\//i.test(String(child.attrGet("href") ?? ""))) (child.attrSet("target", "_blank"), child.attrSet("rel", "noreferrer nofollow"));
    }
  }
});
markdown.renderer.rules.table_open = () => '<div class="scroll" tabindex="0"><table>';
markdown.renderer.rules.table_close = () => "</table></div>";

/** HTML of a note. */
export const htmlOf = (text: string): string => markdown.render(text);
