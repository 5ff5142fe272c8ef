// Sentences of what starts, changes and forks: English, Japanese.

export const startMessages = {
} as const satisfies Record<string, readonly [string, string]>;
