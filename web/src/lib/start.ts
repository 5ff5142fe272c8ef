// A file to begin with, and the choices that a form offers of it. Pure.
import { readFile, valueAt, withValue, type Path, type Read } from "./file";

/** A small experiment that runs on two cores; the corpus is for whoever starts it to choose. */
export const BEGINNING = `name: my-experiment
corpus: ""

clustering:
  domains: 8
  sample_documents: 12000

tokenizer:
  kind: train
  vocab_size: 2048

model:
  hidden_size: 128
  intermediate_size: 384
  num_hidden_layers: 2
  num_attention_heads: 4
  max_position_embeddings: 256

data:
  sequence_length: 256

training:
  batch_windows: 16
  learning_rate: 0.002
  schedule: linear
  checkpoint_every_steps: 250

seed:
  kind: train
  tokens: 6M

plan:
  - kind: fan_out
    tokens: 3.3M

controls:
  dense: true
  random_split: true

evaluation:
  documents_per_domain: 100
  repeats: 1
`;

type Model = Record<string, number | boolean>;
/** Shapes to choose from: that of quick.yaml, and those of configs/models. */
export const sizes: Record<string, Model> = {
  "quick-0.1m": { hidden_size: 64, intermediate_size: 192, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 128 },
  "tiny-1m": { hidden_size: 128, intermediate_size: 384, num_hidden_layers: 2, num_attention_heads: 4, max_position_embeddings: 256 },
  "llama-17m": { hidden_size: 384, intermediate_size: 1024, num_hidden_layers: 6, num_attention_heads: 6, max_position_embeddings: 1024, tie_word_embeddings: true },
  "llama-10b": { vocab_size: 100352, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 42, num_attention_heads: 32, num_key_value_heads: 8, max_position_embeddings: 8192, rope_theta: 500000 },
};

/** The shape of the file among those; null for one of its own, or none. */
export function sizeOf(read: Read): string | null {
  const model = valueAt(read, ["model"]);
  if (typeof model !== "object" || model === null) return null;
  const same = (other: Model) => Object.keys({ ...other, ...model }).every((key) => other[key] === (model as Model)[key]);
  return Object.keys(sizes).find((name) => same(sizes[name] ?? {})) ?? null;
}

/** The text with another shape; a window is no longer than the model reads. */
export function withSize(text: string, name: string): string {
  const model = sizes[name];
  if (!model) return text;
  const length = valueAt(readFile(text), ["data", "sequence_length"]);
  const most = Number(model["max_position_embeddings"]);
  const sized = withValue(text, ["model"], model);
  return typeof length === "number" && length > most ? withValue(sized, ["data", "sequence_length"], most) : sized;
}

/** What a tokenizer or a seed of each kind begins with. */
const kinds: Record<"tokenizer" | "seed", Record<string, object>> = {
  tokenizer: { train: { kind: "train", vocab_size: 2048 }, file: { kind: "file", path: "" } },
  seed: { train: { kind: "train", tokens: "6M" }, checkpoint: { kind: "checkpoint", path: "" } },
};

/** The text with a tokenizer or a seed of another kind. A seed that exists brings its own shape, and needs its own tokenizer. */
export function withKind(text: string, of: "tokenizer" | "seed", kind: string): string {
  if (valueAt(readFile(text), [of, "kind"]) === kind) return text;
  const changed = withValue(text, [of], kinds[of][kind] ?? { kind });
  if (of === "tokenizer") return changed;
  return kind === "checkpoint" ? withKind(withValue(changed, ["model"], undefined), "tokenizer", "file") : valueAt(readFile(changed), ["model"]) === undefined ? withSize(changed, "tiny-1m") : changed;
}

/** Where the budget of the experts stands: the first fan-out of the plan; null where there is none. */
export function fanOut(read: Read): Path | null {
  const plan = valueAt(read, ["plan"]);
  const at = Array.isArray(plan) ? plan.findIndex((group: { kind?: unknown } | null) => group?.kind === "fan_out") : -1;
  return at < 0 ? null : ["plan", at, "tokens"];
}
