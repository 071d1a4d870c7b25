// Node "Build requests" of "Promote Rules → Publish (Kafka)": one PROMOTE_RULES message per company that the view
// control.companies lists. The view knows no DSN, so none can get into a message.
// The query answers one row with a list, so that no company is an empty list and not a branch without an item.

const { company_id: wanted, request_id } = $('Read request').first().json;
const created_at = new Date().toISOString();

const { companies } = $input.first().json;
const messages = companies.map((company_id) => ({
  company_id,
  payload: JSON.stringify({
    event_type: 'PROMOTE_RULES',
    version: 1,
    company_id,
    created_at,
    ...(request_id === null ? {} : { request_id }),
    meta: { producer: 'n8n@promote' },
  }),
}));

if (messages.length === 0) {
  const error = wanted === '' ? 'no company is configured: kylo company set --help' : `company ${JSON.stringify(wanted)} is not configured: kylo company list`;
  return [{ json: { status: 404, messages, answer: { ok: false, error, items_published: 0 } } }];
}
return [{ json: { status: 200, messages, answer: { ok: true, items_published: messages.length, companies } } }];
