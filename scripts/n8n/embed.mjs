// Usage: node scripts/n8n/embed.mjs
//
// Writes the sources under workflows/n8n/code/ into the Code nodes of the workflow files beside them. n8n wants the
// code inside the file; people want to read it, run it and see what changed. tests/workflows.rs fails when they differ.
import { readFileSync, writeFileSync } from 'node:fs';

const folder = new URL('../../workflows/n8n/', import.meta.url);
const sources = {
  'n8n_ingest_publish_kafka.json': { 'Group by company': 'group_by_company.js' },
  'n8n_promote_publish_kafka.json': { 'Read request': 'read_request.js', 'Build requests': 'build_requests.js' },
};

for (const [file, codes] of Object.entries(sources)) {
  const workflow = JSON.parse(readFileSync(new URL(file, folder), 'utf8'));
  for (const [name, code] of Object.entries(codes)) {
    const node = workflow.nodes.find((node) => node.name === name);
    node.parameters.jsCode = readFileSync(new URL(`code/${code}`, folder), 'utf8').trimEnd();
  }
  writeFileSync(new URL(file, folder), `${JSON.stringify(workflow, null, 2)}\n`);
}
