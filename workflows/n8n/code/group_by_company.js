// Node "Group by company" of "Ingest → Publish (Kafka)": from the request to one TXNS_BATCH message per company.
//
// It says of a payload what `kylo publish txns` says of it: the same messages' rows, the same rows refused. Rows are
// cut out of the request's own text and travel as they came, so an amount keeps its digits (100.00, 9007199254740993.12)
// and a field that stands twice stays visible to Kylo, which answers for what is inside a row.
// What must never happen here: a row in another company's message, a company's name used as a property name, an
// amount that went through a float, equal purchases that fall together because a split separated them.

const MAX_ROWS = 2000; // rows of one message
const MAX_BYTES = 450000; // bytes of one message; brokers refuse more than 1,000,000
const PRODUCER = 'n8n@ingest';
const NOW = new Date().toISOString(); // one time for all messages of a request: it orders content, it identifies nothing

class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}
const refuse = (status, reason) => {
  throw new Refused(status, reason);
};

// --- JSON by its text. Only for text that JSON.parse has accepted. ---

const QUOTE = 34, BACKSLASH = 92, COMMA = 44, OPEN_LIST = 91, CLOSE_LIST = 93, OPEN = 123, CLOSE = 125;

function isSpace(code) {
  return code === 32 || code === 10 || code === 13 || code === 9;
}

function skipSpace(text, at) {
  while (isSpace(text.charCodeAt(at))) at += 1;
  return at;
}

function stringEnd(text, at) {
  for (at += 1; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) return at + 1;
    if (code === BACKSLASH) at += 1;
  }
  return at;
}

function valueEnd(text, at) {
  const first = text.charCodeAt(at);
  if (first === QUOTE) return stringEnd(text, at);
  if (first === OPEN || first === OPEN_LIST) {
    for (let depth = 0; at < text.length; ) {
      const code = text.charCodeAt(at);
      if (code === QUOTE) {
        at = stringEnd(text, at);
        continue;
      }
      if (code === OPEN || code === OPEN_LIST) depth += 1;
      if (code === CLOSE || code === CLOSE_LIST) depth -= 1;
      at += 1;
      if (depth === 0) return at;
    }
    return at;
  }
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (isSpace(code) || code === COMMA || code === CLOSE || code === CLOSE_LIST) return at;
    at += 1;
  }
  return at;
}

// The texts of a list's elements; null for what is no list.
function elements(text) {
  let at = skipSpace(text, 0);
  if (text.charCodeAt(at) !== OPEN_LIST) return null;
  const found = [];
  for (at = skipSpace(text, at + 1); at < text.length && text.charCodeAt(at) !== CLOSE_LIST; ) {
    const end = valueEnd(text, at);
    found.push(text.slice(at, end));
    at = skipSpace(text, end);
    if (text.charCodeAt(at) === COMMA) at = skipSpace(text, at + 1);
  }
  return found;
}

// An object's fields in their order, [name, text of the value]; null for what is no object.
function entries(text) {
  let at = skipSpace(text, 0);
  if (text.charCodeAt(at) !== OPEN) return null;
  const found = [];
  for (at = skipSpace(text, at + 1); at < text.length && text.charCodeAt(at) !== CLOSE; ) {
    const nameEnd = stringEnd(text, at);
    const name = JSON.parse(text.slice(at, nameEnd));
    const start = skipSpace(text, skipSpace(text, nameEnd) + 1); // + 1: the colon
    const end = valueEnd(text, start);
    found.push([name, text.slice(start, end)]);
    at = skipSpace(text, end);
    if (text.charCodeAt(at) === COMMA) at = skipSpace(text, at + 1);
  }
  return found;
}

const joined = (fields) => `{${fields.map(([name, value]) => `${JSON.stringify(name)}:${value}`).join(',')}}`;
const isText = (raw) => raw.startsWith('"');
const isNumber = (raw) => /^[-0-9]/.test(raw);

// The known fields that are there and not null, and the first that stands there twice.
function known(fields, names) {
  const values = new Map();
  const seen = new Set();
  let twice = null;
  for (const [name, raw] of fields) {
    if (!names.includes(name)) continue;
    if (seen.has(name)) twice = twice ?? name;
    seen.add(name);
    if (raw === 'null') values.delete(name);
    else values.set(name, raw);
  }
  return { values, twice };
}

// A name as Kylo takes it, or why not. The pattern finds halves of surrogate pairs.
function named(raw, most, what) {
  const text = isText(raw) ? JSON.parse(raw) : null;
  if (text === null || /[\ud800-\udfff]/u.test(text)) return { reason: `${what} must be text` };
  if (text === '') return { reason: `${what} must not be empty` };
  if ([...text].length > most) return { reason: `${what} must have at most ${most} characters` };
  if (text.includes('\0')) return { reason: `${what} must not contain U+0000` };
  return { text };
}

// --- The request. ---

// The bytes as they came. Where n8n hands over none, the body it has parsed, whose numbers are doubles: `exact` false.
async function requestText(node) {
  const { json, binary } = $input.first();
  const raw = binary && binary.data;
  if (!raw) {
    if (json.body === null || typeof json.body !== 'object') return { text: '', exact: false };
    return { text: JSON.stringify(json.body), exact: false };
  }
  const bytes = raw.id ? Buffer.from(await node.helpers.getBinaryDataBuffer(0, 'data')) : Buffer.from(raw.data, 'base64');
  const text = bytes.toString('utf8');
  if (!Buffer.from(text, 'utf8').equals(bytes)) refuse(400, 'the payload is not UTF-8');
  return { text: text.charCodeAt(0) === 0xfeff ? text.slice(1) : text, exact: true };
}

const SHAPE = 'send {"batch_id": "..", "transactions": [{"company_id": "..", "date": "..", "amount": .., "description": ".."}]}';

function readRequest(text) {
  if (text.trim() === '') refuse(400, `the payload is empty: ${SHAPE}`);
  try {
    JSON.parse(text);
  } catch {
    refuse(400, `the payload is not JSON: ${SHAPE}`);
  }
  const fields = entries(text);
  if (fields === null) refuse(400, `the payload is not a JSON object: ${SHAPE}`);
  const { values, twice } = known(fields, ['transactions', 'batch_id', 'ingest_batch_id']);
  if (twice !== null) refuse(400, `the field ${twice} stands there twice`);
  if (!values.has('transactions')) refuse(400, `transactions is missing: ${SHAPE}`);
  const rows = elements(values.get('transactions'));
  if (rows === null) refuse(400, 'transactions must be a list of rows');
  if (rows.length === 0) refuse(400, 'transactions is empty: there is nothing to publish');
  return { rows, batchId: batchId(values) };
}

// The request's own name for the batch, or null.
function batchId(values) {
  const ingest = values.get('ingest_batch_id');
  let raw = values.get('batch_id');
  if (raw === undefined && ingest !== undefined) raw = isNumber(ingest) ? JSON.stringify(ingest) : ingest;
  if (raw === undefined) return null;
  const { text, reason } = named(raw, 200, values.has('batch_id') ? 'batch_id' : 'ingest_batch_id');
  return reason === undefined ? text : refuse(400, reason);
}

// The company a row names, and the row's text. A whole number counts as its text and is taken out of the row, where
// only text may stand.
function companyOf(row) {
  const fields = entries(row);
  if (fields === null) return { reason: 'the row is not a JSON object' };
  const { values, twice } = known(fields, ['company_id']);
  if (twice !== null) return { reason: 'the row names its company twice' };
  const raw = values.get('company_id');
  if (raw === undefined) return { reason: 'the row names no company: give it company_id' };
  const isWhole = /^[0-9]+$/.test(raw);
  const { text, reason } = named(isWhole ? `"${raw}"` : raw, 50, "the row's company_id");
  if (reason !== undefined) return { reason };
  return { company: text, row: isWhole ? joined(fields.filter(([name]) => name !== 'company_id')) : row };
}

// A number that the double it went through may have changed.
function isLossy(row) {
  const { values } = known(entries(row), ['amount', 'id']);
  return [...values.values()].some((raw) => isNumber(raw) && (/e/i.test(raw) || raw.replace(/[^0-9]/g, '').length > 15));
}

function grouped(rows, exact, rejects) {
  const companies = new Map();
  rows.forEach((text, index) => {
    const { company, row, reason } = companyOf(text);
    if (reason !== undefined) {
      rejects.push({ index, reason });
    } else if (!exact && isLossy(row)) {
      rejects.push({ index, reason: "numbers of this size arrive rounded: send the amount and the id as text, or switch the webhook's option Raw Body on" });
    } else {
      if (!companies.has(company)) companies.set(company, []);
      companies.get(company).push({ index, text: row });
    }
  });
  return companies;
}

// --- Splitting: what identifies a row, as Kylo reads it (schemas/, section "rows without id"). ---

const ROW_FIELDS = ['id', 'date', 'amount', 'description', 'company_id', 'currency', 'memo', 'counterparty', 'occurrence', 'void'];
const WHOLE = '(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)';
const AMOUNT = new RegExp(`^(?:([+\u2212-]?)\\$?(${WHOLE})(?:\\.([0-9]{1,2}))?|(\\()\\$?(${WHOLE})(?:\\.([0-9]{1,2}))?\\))$`);
const DATE = /^(?!0000)([0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(?:[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]))?$/;

function inRange(negative, size) {
  const cents = negative ? -size : size;
  return cents >= -(1n << 63n) && cents < 1n << 63n ? cents : null;
}

function centsOfText(text) {
  const parts = AMOUNT.exec(text);
  if (parts === null) return null;
  const [sign, whole, fraction] = parts[4] === undefined ? parts.slice(1, 4) : parts.slice(4, 7);
  const digits = whole.replaceAll(',', '') + (fraction ?? '').padEnd(2, '0');
  return inRange(sign !== '' && sign !== '+', BigInt(digits));
}

// Exact, exponents included; a number within 1e-9 of a cent is that cent.
function centsOfNumber(text) {
  const [, sign, whole, fraction = '', exponent = '0'] = /^(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?$/.exec(text);
  const all = whole + fraction;
  const digits = all.replace(/^0+/, '');
  if (digits === '') return 0n;
  const point = whole.length - (all.length - digits.length) + Number(exponent) + 2;
  if (point > 19) return null;
  const digit = (at) => digits[at] ?? '0';
  let size = 0n;
  for (let at = 0; at < point; at += 1) size = size * 10n + BigInt(digit(at));
  let head = '';
  for (let at = 0; at < 7; at += 1) head += digit(point + at);
  if (head === '9999999') size += 1n;
  else if (head === '0000001' && /[1-9]/.test(digits.slice(Math.max(point + 7, 0)))) return null;
  else if (head !== '0000000' && head !== '0000001') return null;
  return inRange(sign === '-', size);
}

function centsOf(raw) {
  if (raw === undefined) return null;
  if (isNumber(raw)) return centsOfNumber(raw);
  return isText(raw) ? centsOfText(JSON.parse(raw)) : null;
}

// The business date; null for a day that no calendar has.
function dayOf(raw) {
  const parts = raw !== undefined && isText(raw) ? DATE.exec(JSON.parse(raw)) : null;
  if (parts === null) return null;
  const [year, month, day] = parts.slice(1).map(Number);
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
  return day <= days ? parts[0].slice(0, 10) : null;
}

function occurrenceOf(raw) {
  if (raw === undefined) return { n: null };
  const n = /^[0-9]+(?:\.0+)?$/.test(raw) ? Number(raw) : 0;
  return n >= 1 && n <= 4294967295 ? { n } : { n: null, bad: true };
}

// { id } or { facts, n } of a row; {} for one that Kylo cannot identify either. `bad`: it is counted among its equals,
// but is no transaction.
function identityOf(text) {
  const fields = entries(text);
  if (fields === null) return {};
  const { values, twice } = known(fields, ROW_FIELDS);
  if (twice !== null) return {};
  const id = values.get('id');
  const texts = ['description', 'memo', 'counterparty'].map((name) => values.get(name));
  const isOdd = texts.some((raw) => raw !== undefined && (!isText(raw) || JSON.parse(raw).includes('\0')));
  if (id !== undefined) {
    const name = isNumber(id) ? id : isText(id) ? JSON.parse(id) : '';
    return name.trim() === '' || isOdd ? {} : { id: name };
  }
  const [day, cents, description] = [dayOf(values.get('date')), centsOf(values.get('amount')), values.get('description')];
  const currency = values.get('currency') ?? '"USD"';
  if (day === null || cents === null || description === undefined || !isText(description) || !isText(currency)) return {};
  const { n, bad } = occurrenceOf(values.get('occurrence'));
  const isFlag = ['true', 'false', undefined].includes(values.get('void'));
  const facts = JSON.stringify([day, String(cents), JSON.parse(currency), JSON.parse(description)]);
  return { facts, n, bad: bad || isOdd || !isFlag };
}

// Numbers rows without id among their equals, as a batch that holds all of them would be numbered. A number that a row
// claims is given to no other.
function numbered(rows) {
  const all = rows.map(({ text }) => identityOf(text));
  const claimed = new Set(all.filter(({ n }) => n).map(({ facts, n }) => `${n} ${facts}`));
  const last = new Map();
  for (const row of all) {
    if (row.facts === undefined || row.n !== null) continue;
    let n = last.get(row.facts) ?? 0;
    do n += 1;
    while (claimed.has(`${n} ${row.facts}`));
    last.set(row.facts, n);
    row.n = n;
  }
  return all;
}

function withOccurrence(text, n) {
  const fields = entries(text);
  const isSet = (wanted) => fields.some(([name, raw]) => name === wanted && raw !== 'null');
  if (isSet('id') || isSet('occurrence')) return text;
  return joined([...fields.filter(([name]) => name !== 'occurrence'), ['occurrence', String(n)]]);
}

// Rows that must stay in one message: those that are the same transaction. Whether such rows agree is for the batch
// to say, and only a batch that holds them all can.
function units(rows) {
  const identities = numbered(rows);
  const places = new Map();
  const found = [];
  rows.forEach(({ index, text }, at) => {
    const { id, facts, n, bad } = identities[at];
    const row = { index, text: facts === undefined ? text : withOccurrence(text, n) };
    const key = id !== undefined ? `id ${id}` : facts !== undefined && !bad ? `row ${n} ${facts}` : null;
    if (key === null || !places.has(key)) {
      if (key !== null) places.set(key, found.length);
      found.push([row]);
    } else {
      found[places.get(key)].push(row);
    }
  });
  return found;
}

const size = (row) => Buffer.byteLength(row.text, 'utf8') + 1;

// The rows' texts by message, none above the budget.
function chunks(rows, budget, rejects) {
  const total = rows.reduce((sum, row) => sum + size(row), 0);
  if (total <= budget && rows.length <= MAX_ROWS) return [rows.map((row) => row.text)];
  const found = [];
  let [chunk, used] = [[], 0];
  for (const unit of units(rows)) {
    const bytes = unit.reduce((sum, row) => sum + size(row), 0);
    if (bytes > budget || unit.length > MAX_ROWS) {
      const reason =
        unit.length > MAX_ROWS
          ? `${unit.length} rows say they are the same transaction, and a message takes ${MAX_ROWS} rows: give each transaction an id of its own, or send it once`
          : `the row does not fit into a message of ${MAX_BYTES} bytes: shorten its texts`;
      unit.forEach(({ index }) => rejects.push({ index, reason }));
      continue;
    }
    if (used + bytes > budget || chunk.length + unit.length > MAX_ROWS) {
      found.push(chunk);
      [chunk, used] = [[], 0];
    }
    used += bytes;
    unit.forEach((row) => chunk.push(row.text));
  }
  found.push(chunk);
  return found.filter((texts) => texts.length > 0);
}

// --- The messages. ---

function payload(company, name, rows) {
  const [batch, id, now, producer] = [name, company, NOW, PRODUCER].map((text) => JSON.stringify(text));
  return `{"event_type":"TXNS_BATCH","version":2,"batch_id":${batch},"company_id":${id},"created_at":${now},"transactions":[${rows.join(',')}],"meta":{"producer":${producer}}}`;
}

async function answerTo(node) {
  const { text, exact } = await requestText(node);
  const request = readRequest(text);
  const name = request.batchId ?? `n8n-${$input.first().json.rows_hash.slice(0, 16)}`;
  const rejects = [];
  const messages = [];
  for (const [company_id, rows] of grouped(request.rows, exact, rejects)) {
    const budget = MAX_BYTES - Buffer.byteLength(payload(company_id, name, []), 'utf8');
    for (const texts of chunks(rows, budget, rejects)) messages.push({ company_id, payload: payload(company_id, name, texts) });
  }
  rejects.sort((a, b) => a.index - b.index);
  if (messages.length === 0) {
    return { status: 422, messages, answer: { ok: false, error: 'no row could be published: see rejects', items_published: 0, rejects } };
  }
  return { status: 200, messages, answer: { ok: true, items_published: messages.length, rejects } };
}

try {
  return [{ json: await answerTo(this) }];
} catch (error) {
  if (!(error instanceof Refused)) throw error;
  return [{ json: { status: error.status, messages: [], answer: { ok: false, error: error.message, items_published: 0, rejects: [] } } }];
}
