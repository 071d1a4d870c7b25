// Usage: node scripts/n8n/files.mjs FOLDER
//
// Called by scripts/n8n.sh: writes what n8n imports into FOLDER: credentials.json (mode 0600; n8n encrypts them when it
// imports them) and workflows/, the two workflows as this installation wants them. From the environment:
//   PG_DSN_RW, ROLE, ROLE_PASSWORD   where the control database is, and the role that n8n reads its view with
//   KAFKA_BROKERS, KAFKA_TOPIC_TXNS, KAFKA_TOPIC_PROMOTE, KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA_LOCATION, KAFKA_SASL_MECHANISM,
//   KAFKA_SASL_USERNAME (KAFKA_USERNAME), KAFKA_SASL_PASSWORD (KAFKA_PASSWORD) or KAFKA_SASL_PASSWORD_FILE: as kylo reads them; its
//                                    other names for them, and client certificates, are not read
//   KAFKA_NODE                       version of the Kafka node: 2, or 1 where n8n lacks the native part of 2
//   WEBHOOK_TOKEN                    when set, callers must send it in the header X-Kylo-Token
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = process.argv[2];
const env = process.env;

function postgres() {
  const url = new URL(env.PG_DSN_RW);
  const ssl = ['require', 'verify-ca', 'verify-full'].includes(url.searchParams.get('sslmode')) ? 'require' : 'disable';
  const database = decodeURIComponent(url.pathname.slice(1));
  return { host: url.hostname, port: Number(url.port || 5432), database, user: env.ROLE, password: env.ROLE_PASSWORD, ssl };
}

function kafka() {
  const protocol = env.KAFKA_SECURITY_PROTOCOL ?? 'PLAINTEXT';
  const plain = { clientId: 'n8n', brokers: env.KAFKA_BROKERS, ssl: protocol.endsWith('SSL'), authentication: false };
  if (plain.ssl && env.KAFKA_SSL_CA_LOCATION) plain.ca = readFileSync(env.KAFKA_SSL_CA_LOCATION, 'utf8');
  if (!protocol.startsWith('SASL')) return plain;
  const username = env.KAFKA_SASL_USERNAME ?? env.KAFKA_USERNAME;
  const file = env.KAFKA_SASL_PASSWORD_FILE;
  const password = file ? readFileSync(file, 'utf8').replace(/\r?\n$/, '') : (env.KAFKA_SASL_PASSWORD ?? env.KAFKA_PASSWORD);
  return { ...plain, authentication: true, username, password, saslMechanism: (env.KAFKA_SASL_MECHANISM ?? 'plain').toLowerCase() };
}

const credentials = [
  { id: 'kyloRedpandaDev0', name: 'Redpanda Dev', type: 'kafka', data: kafka() },
  { id: 'kyloPostgresRW00', name: 'Kylo Postgres RW', type: 'postgres', data: postgres() },
];
const token = { id: 'kyloWebhookToken', name: 'Kylo Webhook Token', type: 'httpHeaderAuth', data: { name: 'X-Kylo-Token', value: env.WEBHOOK_TOKEN } };
if (env.WEBHOOK_TOKEN) credentials.push(token);
writeFileSync(join(folder, 'credentials.json'), JSON.stringify(credentials), { mode: 0o600 });

const topics = { 'n8n_ingest_publish_kafka.json': env.KAFKA_TOPIC_TXNS, 'n8n_promote_publish_kafka.json': env.KAFKA_TOPIC_PROMOTE };
for (const [file, topic] of Object.entries(topics)) {
  const workflow = JSON.parse(readFileSync(new URL(`../../workflows/n8n/${file}`, import.meta.url), 'utf8'));
  for (const node of workflow.nodes) {
    if (node.type === 'n8n-nodes-base.kafka') {
      node.typeVersion = Number(env.KAFKA_NODE);
      // Version 1 says yes or no, version 2 how.
      if (env.KAFKA_NODE === '1') node.parameters.options.compression = true;
      if (topic) node.parameters.topic = topic;
    }
    if (node.type === 'n8n-nodes-base.webhook' && env.WEBHOOK_TOKEN) {
      node.parameters.authentication = 'headerAuth';
      node.credentials = { httpHeaderAuth: { id: token.id, name: token.name } };
    }
  }
  writeFileSync(join(folder, 'workflows', file), JSON.stringify(workflow));
}
