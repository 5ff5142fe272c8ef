// Where the dashboard lies: at / or below a path of a proxy. The server writes it into the page's <base>, from which all
// links and requests go. Two dashboards of one host are told apart by it.

/** The path of the dashboard, with a slash at both ends. */
export const base = new URL(".", document.baseURI).pathname;

/** A path below the dashboard, without a slash before it; one outside of it as it is. */
export function below(pathname: string): string {
  return `${pathname}/`.startsWith(base) ? pathname.slice(base.length) : pathname.slice(1);
}
