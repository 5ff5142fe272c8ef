// Labels as people type them, and the filter by them. Pure.

/** What stands between commas, each once. */
export const labelsOf = (text: string): string[] => [...new Set(text.split(/[,、\n]/).map((label) => label.trim()).filter(Boolean))];

/** Labels as a text to type on in. */
export const textOf = (labels: string[]): string => labels.join(", ");

/** Whether all wanted ones are there. */
export const hasAll = (labels: string[], wanted: string[]): boolean => wanted.every((label) => labels.includes(label));

/** The filter with a label added, or taken away where it stands in it. */
export const toggled = (wanted: string[], label: string): string[] => (wanted.includes(label) ? wanted.filter((other) => other !== label) : [...wanted, label]);
