// Called by `scripts/n8n.sh promote`: what `n8n execute --rawOutput` prints on stdin, the workflow's answer on stdout;
// an error ends with 1.
import { readFileSync } from 'node:fs';

const text = readFileSync(0, 'utf8');
const start = text.indexOf('{');
const result = start < 0 ? {} : JSON.parse(text.slice(start, text.lastIndexOf('}') + 1)).data?.resultData ?? {};
const answer = result.runData?.Published?.[0]?.data?.main?.[0]?.[0]?.json?.answer;
if (answer) {
  console.log(JSON.stringify(answer));
} else {
  console.error(`error: ${result.error?.message ?? `n8n did not run the workflow: ${text.trim().slice(-500)}`}`);
  process.exitCode = 1;
}
