// The OpenAPI document as people read it: operations by group, schemas as rows, and what one types to ask. Pure.

export type Schema = {
  $ref?: string; type?: string | string[]; format?: string; description?: string; enum?: unknown[]; const?: unknown; default?: unknown; example?: unknown;
  properties?: Record<string, Schema>; required?: string[]; items?: Schema; oneOf?: Schema[]; anyOf?: Schema[]; allOf?: Schema[];
  additionalProperties?: Schema | boolean; minimum?: number; maximum?: number; pattern?: string; title?: string;
};
export type Parameter = { name: string; in: string; required?: boolean; description?: string; schema?: Schema };
type Content = Record<string, { schema?: Schema }>;
type Response = { $ref?: string; description?: string; content?: Content };
type Raw = { operationId: string; tags?: string[]; summary?: string; description?: string; parameters?: Parameter[]; requestBody?: { content: Content }; responses: Record<string, Response>; security?: object[] };
export type Document = { info: { title: string; version: string; description?: string }; paths: Record<string, Record<string, Raw>>; components: { schemas: Record<string, Schema>; responses?: Record<string, Response> } };

export type Answer = { status: string; description: string; kind: string; schema: Schema | undefined };
export type Operation = { id: string; method: string; path: string; group: string; summary: string; description: string; parameters: Parameter[]; bodyKind: string; body: Schema | undefined; answers: Answer[]; errors: Answer[]; isOpen: boolean };

/** Words of doc comments without their marks. */
export const wordsOf = (text: string | undefined) => (text ?? "").replace(/\[`?([^\]`]+)`?\](\([^)]*\))?/g, "$1").replaceAll("`", "");

const refName = (ref: string) => ref.split("/").at(-1) ?? "";

/** Every operation, by method and path as the document has them. */
export function operationsOf(document: Document): Operation[] {
  return Object.entries(document.paths).flatMap(([path, item]) => Object.entries(item).map(([method, raw]): Operation => {
    const answers = Object.entries(raw.responses).map(([status, given]): Answer => {
      const response = given.$ref ? (document.components.responses?.[refName(given.$ref)] ?? given) : given;
      const [kind, content] = Object.entries(response.content ?? {})[0] ?? ["", {}];
      return { status, description: response.description ?? "", kind, schema: content.schema };
    });
    const isGood = ({ status }: Answer) => status < "400";
    const [bodyKind, body] = Object.entries(raw.requestBody?.content ?? {})[0] ?? ["", {}];
    return {
      id: raw.operationId, method: method.toUpperCase(), path, group: raw.tags?.[0] ?? "", summary: raw.summary ?? answers.find(isGood)?.description ?? "", description: raw.description ?? "",
      parameters: raw.parameters ?? [], bodyKind, body: body.schema, answers: answers.filter(isGood), errors: answers.filter((answer) => !isGood(answer)), isOpen: raw.security?.some((one) => Object.keys(one).length === 0) ?? false,
    };
  }));
}

/** Groups in the order in which they come first. */
export function grouped(operations: Operation[]): [string, Operation[]][] {
  const groups = new Map<string, Operation[]>();
  for (const operation of operations) groups.set(operation.group, [...(groups.get(operation.group) ?? []), operation]);
  return [...groups];
}

/** A schema with what it refers to. */
export function resolved(schema: Schema | undefined, document: Document): Schema {
  if (!schema) return {};
  if (schema.$ref) return { ...document.components.schemas[refName(schema.$ref)], ...(schema.description ? { description: schema.description } : {}), title: refName(schema.$ref) };
  const one = schema.oneOf ?? schema.anyOf;
  const others = one?.filter((part) => part.type !== "null");
  // Something or null is that something.
  if (one && others?.length === 1 && others[0]) return { ...resolved(others[0], document), ...(schema.description ? { description: schema.description } : {}) };
  if (schema.allOf?.length === 1) return { ...resolved(schema.allOf[0], document), ...(schema.description ? { description: schema.description } : {}) };
  return schema;
}

/** The type of a value in a word or two: text, whole number, list of BranchView. */
export function typeOf(schema: Schema | undefined, document: Document): string {
  if (!schema) return "";
  if (schema.$ref) {
    const target = document.components.schemas[refName(schema.$ref)];
    return target?.properties || target?.oneOf || target?.allOf ? refName(schema.$ref) : typeOf(target, document);
  }
  const one = schema.oneOf ?? schema.anyOf;
  if (one) return one.map((part) => typeOf(part, document)).join(" | ");
  if (schema.allOf) return schema.allOf.map((part) => typeOf(part, document)).join(" & ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const types = [schema.type ?? "any"].flat();
  return types.map((type) => {
    if (type === "array") return `[${typeOf(schema.items, document)}]`;
    if (type === "object" && typeof schema.additionalProperties === "object") return `{ …: ${typeOf(schema.additionalProperties, document)} }`;
    return schema.format && type === "string" ? schema.format : type;
  }).join(" | ");
}

export type Row = { path: string; depth: number; type: string; isRequired: boolean; description: string };
/** How deep a schema is told. */
const DEPTH_MAX = 4;
/** And how long. */
const ROWS_MAX = 200;

/** The fields of a schema, those of its parts below them; one that contains itself is told once. */
export function rowsOf(schema: Schema | undefined, document: Document): Row[] {
  const rows: Row[] = [];
  const walk = (given: Schema | undefined, depth: number, above: string[]) => {
    const found = resolved(given, document);
    if (depth >= DEPTH_MAX || rows.length >= ROWS_MAX || (found.title && above.includes(found.title))) return;
    const within = found.title ? [...above, found.title] : above;
    if (found.items) return walk(found.items, depth, within);
    for (const variant of found.oneOf ?? found.anyOf ?? found.allOf ?? []) walk(variant, depth, within);
    if (typeof found.additionalProperties === "object") walk(found.additionalProperties, depth, within);
    for (const [name, part] of Object.entries(found.properties ?? {})) {
      const own = resolved(part, document);
      rows.push({ path: name, depth, type: typeOf(part, document), isRequired: found.required?.includes(name) ?? false, description: wordsOf(part.description ?? own.description) });
      walk(part, depth + 1, within);
    }
  };
  walk(schema, 0, []);
  return rows;
}

/** What one could send: the fields that must be there. */
export function exampleOf(schema: Schema | undefined, document: Document, depth = 0): unknown {
  const found = resolved(schema, document);
  if (found.example !== undefined) return found.example;
  if (found.default !== undefined) return found.default;
  if (found.const !== undefined) return found.const;
  if (found.enum) return found.enum[0];
  const variants = found.oneOf ?? found.anyOf;
  if (variants) return exampleOf(variants[0], document, depth);
  if (found.allOf) return Object.assign({}, ...found.allOf.map((part) => exampleOf(part, document, depth)));
  const type = [found.type ?? "object"].flat().find((one) => one !== "null");
  if (type === "array") return depth > 3 ? [] : [exampleOf(found.items, document, depth + 1)];
  if (type === "boolean") return false;
  if (type === "integer" || type === "number") return Math.max(found.minimum ?? 0, 0);
  if (type === "string") return found.format === "uuid" ? "00000000-0000-0000-0000-000000000000" : "…";
  if (depth > 5) return {};
  return Object.fromEntries(Object.entries(found.properties ?? {}).filter(([name]) => found.required?.includes(name)).map(([name, part]) => [name, exampleOf(part, document, depth + 1)]));
}

const asked = ({ parameters }: Operation) => parameters.filter((one) => one.in === "query" && one.required);
/** Names of the path as shell and Python have them: {id} is $ID, {id}. */
const filled = (path: string, by: (name: string) => string) => path.replace(/\{(\w+)\}/g, (_, name: string) => by(name));
const keyed = ({ parameters }: Operation) => parameters.some((one) => one.name === "Idempotency-Key");

/** What one types in a terminal. */
export function curlOf(operation: Operation, document: Document, server: string): string {
  const query = asked(operation).map(({ name }) => `${name}=…`).join("&");
  const lines = [`curl --fail-with-body${operation.method === "GET" ? "" : ` -X ${operation.method}`} "${server}${filled(operation.path, (name) => `$${name.toUpperCase()}`)}${query && `?${query}`}"`];
  if (!operation.isOpen) lines.push('-H "Authorization: Bearer $SENMON_TOKEN"');
  if (keyed(operation)) lines.push('-H "Idempotency-Key: $(uuidgen)"');
  if (operation.body) lines.push('-H "Content-Type: application/json"', `-d '${JSON.stringify(exampleOf(operation.body, document)).replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

/** JSON as Python writes it. */
function python(value: unknown, indent = ""): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const parts = Array.isArray(value) ? value.map((one) => python(one, inner)) : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, inner)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return parts.length === 0 ? `${open}${close}` : `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${indent}${close}`;
}

/** What the Python package has for an operation. */
export const client: Record<string, string> = {
  get_experiments: "client.experiments()", post_experiments: 'client.submit("experiment.yaml")', get_experiments_id: 'client.experiment("NAME")', get_experiments_id_branches: 'client.branches("NAME")',
  get_experiments_id_report: 'client.report("NAME")', get_experiments_id_spec: 'client.spec("NAME")', get_experiments_id_metrics: 'senmon.frame(client.metrics_of("NAME"))',
  post_experiments_id_pause: 'client.pause("NAME")', post_experiments_id_resume: 'client.resume("NAME")', post_experiments_id_cancel: 'client.cancel("NAME")',
  get_branches_id: 'client.branch("NAME/BRANCH")', get_branches_id_metrics: 'client.metrics("NAME/BRANCH")', get_checkpoints: "client.checkpoints()", get_checkpoints_id: 'client.checkpoint("ID")',
  get_checkpoints_id_files_name: 'client.download("ID", "folder")', get_corpora: "client.corpora()", post_corpora: 'client.add_corpus("NAME", ["/data/texts"])', get_corpora_id: 'client.corpus("NAME")', post_plan: 'client.plan("experiment.yaml")', get_stream: 'client.stream("NAME")',
};

/** What one writes in Python: by the package where it has the operation, else by httpx. */
export function pythonOf(operation: Operation, document: Document, server: string): string {
  const call = client[operation.id];
  if (call) return `import senmon\n\nclient = senmon.Client("${server}")  # the token: SENMON_TOKEN\nprint(${call})`;
  const query = asked(operation);
  const names = [...operation.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name ?? "");
  const parts = [
    `    ${JSON.stringify(operation.method)},`, `    f"${server}${operation.path}",`,
    ...(operation.isOpen ? [] : [`    headers={"Authorization": f"Bearer {os.environ['SENMON_TOKEN']}"${keyed(operation) ? ', "Idempotency-Key": str(uuid.uuid4())' : ""}},`]),
    ...(query.length > 0 ? [`    params={${query.map(({ name }) => `"${name}": "…"`).join(", ")}},`] : []),
    ...(operation.body ? [`    json=${python(exampleOf(operation.body, document), "    ")},`] : []),
  ];
  const imports = [...(operation.isOpen ? [] : ["import os"]), ...(keyed(operation) && !operation.isOpen ? ["import uuid"] : [])];
  const variables = names.map((name) => `${name} = "…"`);
  const answers = operation.answers.some(({ kind }) => kind.includes("json")) ? "answer.json()" : operation.answers.some(({ kind }) => kind) ? "answer.text" : "answer.status_code";
  return [...imports, ...(imports.length > 0 ? [""] : []), "import httpx", "", ...variables, "answer = httpx.request(", ...parts, ")", "answer.raise_for_status()", `print(${answers})`].join("\n");
}
