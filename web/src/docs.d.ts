// What web/build/docs.mjs makes when the dashboard is built.
declare module "virtual:docs" {
  export type DocPage = { title: string; headings: { level: number; anchor: string; text: string }[]; html: string };
  export type DocSection = { name: string; language: "en" | "ja"; title: string; anchor: string; heading: string; text: string };
  export const pages: { name: string; language: "en" | "ja"; title: string; load: () => Promise<{ default: DocPage }> }[];
  export const sections: () => Promise<{ default: DocSection[] }>;
}
