// Runs Code nodes of the workflows as n8n's task runner would: with its globals, and without what it withholds (require,
// process, fetch, crypto, URL). Called by tests/workflows.rs.
//
// stdin: a list of {code, limits?, item, nodes?}; stdout: for each, {items} or {error}. `code` is the source, `limits`
// replaces constants of it, `item` is {json, raw?} with the request's bytes as numbers, `nodes` holds other nodes' first items.
import { readFileSync } from 'node:fs';
import vm from 'node:vm';

function source({ code, limits = {} }) {
  let text = code;
  for (const [name, value] of Object.entries(limits)) {
    const declared = new RegExp(`const ${name} = [0-9]+;`);
    if (!declared.test(text)) throw new Error(`the code has no constant ${name}`);
    text = text.replace(declared, `const ${name} = ${value};`);
  }
  return `(async function () {\n${text}\n})`;
}

const withBinary = ({ json, raw }) => ({ json, ...(raw === undefined ? {} : { binary: { data: { data: Buffer.from(raw).toString('base64'), mimeType: 'application/json' } } }) });

async function run(work) {
  const items = [withBinary(work.item)];
  const context = vm.createContext({
    Buffer,
    TextEncoder,
    $input: { first: () => items[0], all: () => items },
    $: (name) => ({ first: () => ({ json: work.nodes[name] }) }),
  });
  try {
    return { items: await vm.runInContext(source(work), context).call({ helpers: {} }) };
  } catch (error) {
    return { error: String(error) };
  }
}

const answers = [];
for (const work of JSON.parse(readFileSync(0, 'utf8'))) answers.push(await run(work));
process.stdout.write(JSON.stringify(answers));
