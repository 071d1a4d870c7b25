// Node "Read request" of "Promote Rules → Publish (Kafka)": for whom is asked?
//
// The Manual Trigger asks for every company; the webhook names one, or says "all": true. A body that says neither is
// refused: a typing error must not promote everyone.

const SHAPE = 'send {"company_id": "710"} or {"all": true}, and "request_id" if the same request may be sent again';

function read(item) {
  if (item.headers === undefined) return { company_id: '', request_id: null };
  const body = item.body;
  if (body === null || typeof body !== 'object' || Array.isArray(body)) return { reason: `the request is not a JSON object: ${SHAPE}` };
  const { company_id, all, request_id = null } = body;
  if (request_id !== null && (typeof request_id !== 'string' || request_id === '' || [...request_id].length > 200 || /\0|[\ud800-\udfff]/u.test(request_id))) {
    return { reason: 'request_id must be text of 1 to 200 characters' };
  }
  if (all === true && company_id === undefined) return { company_id: '', request_id };
  const company = Number.isSafeInteger(company_id) && company_id >= 0 ? String(company_id) : company_id;
  if ((all !== undefined && all !== false) || typeof company !== 'string' || company === '') return { reason: `nobody is asked for: ${SHAPE}` };
  return { company_id: company, request_id };
}

const request = read($input.first().json);
if (request.reason === undefined) return [{ json: { ...request, ok: true } }];
return [{ json: { ok: false, status: 400, answer: { ok: false, error: request.reason, items_published: 0 } } }];
