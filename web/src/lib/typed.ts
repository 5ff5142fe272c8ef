// What somebody typed, as a file or a body has it. Pure.

/** A number where it is one, else the text. */
export const typed = (text: string): string | number => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text.trim());
