// Called by `scripts/n8n.sh promote`: what `n8n execute --rawOutput` prints on stdin, the workflow's answer on stdout;
// an error ends with 1. The argument names the log with what n8n said besides.
import { readFileSync } from 'node:fs';

// The run's result is one JSON object; other lines may stand before and after it.
function resultIn(text) {
  for (const { index } of text.matchAll(/^\{/gm)) {
    try {
      return JSON.parse(text.slice(index, text.lastIndexOf('}') + 1)).data.resultData;
    } catch {
      // not this one
    }
  }
  return {};
}

const text = readFileSync(0, 'utf8');
const result = resultIn(text);
const answer = result.runData?.Published?.[0]?.data?.main?.[0]?.[0]?.json?.answer;
if (answer) {
  console.log(JSON.stringify(answer));
} else {
  const words = `n8n did not run the workflow: ${text.trim().slice(-500)} (its log is ${process.argv[2]})`;
  console.error(`error: ${result.error?.message ?? words}`);
  process.exitCode = 1;
}
