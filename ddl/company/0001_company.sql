-- One company schema: what a company's batches said, what is waiting, what is decided. Several companies may share a schema, so every
-- key begins with company_id; the schema is chosen by search_path alone:
--   PGOPTIONS='-c search_path=app_710' psql -v ON_ERROR_STOP=1 "$DSN" -f ddl/company/0001_company.sql
-- Idempotent, like every file here.

DO $$ BEGIN
    IF current_schema() IS NULL OR current_schema() IN ('public', 'control') OR current_schema() LIKE 'pg\_%' THEN
        RAISE EXCEPTION 'set search_path to the company''s own, existing schema first (current_schema is %)', current_schema();
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS schema_migrations (
    version     INTEGER     NOT NULL CONSTRAINT schema_migrations_pkey PRIMARY KEY,
    name        TEXT        NOT NULL,
    checksum    TEXT,
    applied_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- One row per company. Ingest and promote lock it first and take the next seq, which serialises them (invariant I11) and gives every effect its place.
CREATE TABLE IF NOT EXISTS company_state (
    company_id       VARCHAR(50) NOT NULL CONSTRAINT company_state_pkey PRIMARY KEY,
    seq              BIGINT      NOT NULL DEFAULT 0,
    pending_seq      BIGINT      NOT NULL DEFAULT 0,  -- seq at which what the Pending tab must show last changed
    active_seq       BIGINT      NOT NULL DEFAULT 0,  -- the same for the Active tab
    answer_seq       BIGINT      NOT NULL DEFAULT 0,  -- times that posts have stored answers: the Pending tab is due until it shows them, whoever stored them
    changed_seq      BIGINT      NOT NULL DEFAULT 0,  -- seq at which the content of an existing transaction last changed (see ingest_batches)
    ruleset_version  INTEGER     NOT NULL DEFAULT 0,
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- The ledger: a batch is applied once per (company_id, batch_signature) (invariant I1).
-- An entry is superseded when one of its rows has been changed since, that is, when a row's content_seq is above the entry's seq. That is
-- read, not stored: no row of a company has changed since an entry with seq >= company_state.changed_seq, so such an entry, delivered again
-- with no newer created_at, is dismissed by this table alone; otherwise its rows are compared one by one by as_of.
CREATE TABLE IF NOT EXISTS ingest_batches (
    company_id       VARCHAR(50) NOT NULL,
    batch_signature  VARCHAR(64) NOT NULL,
    batch_id         TEXT        NOT NULL,            -- the first that brought this content; others are in ingest_batch_ids
    as_of            TIMESTAMPTZ NOT NULL,            -- newest created_at seen with this content
    seq              BIGINT      NOT NULL,            -- of its last application
    row_count        INTEGER     NOT NULL,
    bad_count        INTEGER     NOT NULL DEFAULT 0,
    deliveries       INTEGER     NOT NULL DEFAULT 1,
    topic            TEXT        NOT NULL,
    partition        INTEGER     NOT NULL,
    "offset"         BIGINT      NOT NULL,
    applied_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT ingest_batches_pkey PRIMARY KEY (company_id, batch_signature)
);

-- Every batch_id that ever brought a known content, so that `kylo trace` finds a batch by any of its names.
CREATE TABLE IF NOT EXISTS ingest_batch_ids (
    company_id       VARCHAR(50) NOT NULL,
    batch_id         TEXT        NOT NULL,
    batch_signature  VARCHAR(64) NOT NULL,
    first_seen_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT ingest_batch_ids_pkey PRIMARY KEY (company_id, batch_id, batch_signature)
);

-- What the bank said, as of the newest batch that said it. Exactly one of: void, an open row in pending_txns, a live row in matched_txns.
CREATE TABLE IF NOT EXISTS transactions (
    company_id       VARCHAR(50) NOT NULL,
    txn_uid          UUID        NOT NULL,
    external_id      TEXT,
    occurred_on      DATE        NOT NULL,
    amount_cents     BIGINT      NOT NULL,
    currency         VARCHAR(3)  NOT NULL DEFAULT 'USD',
    description      TEXT        NOT NULL,
    memo             TEXT        NOT NULL DEFAULT '',
    counterparty     TEXT        NOT NULL DEFAULT '',
    occurrence       INTEGER,                         -- only for rows without external_id
    void             BOOLEAN     NOT NULL DEFAULT FALSE,
    as_of            TIMESTAMPTZ NOT NULL,            -- created_at of the batch that last said this content
    seq              BIGINT      NOT NULL,            -- when it was first seen
    content_seq      BIGINT      NOT NULL,            -- when its content last changed
    batch_signature  VARCHAR(64) NOT NULL,            -- the batch that last changed it
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT transactions_pkey PRIMARY KEY (company_id, txn_uid)
);

-- What no rule decided. Open rows are what the Pending tab shows.
CREATE TABLE IF NOT EXISTS pending_txns (
    txn_uid           UUID        NOT NULL,
    company_id        VARCHAR(50) NOT NULL,
    first_seen_batch  TEXT        NOT NULL,
    last_seen_batch   TEXT        NOT NULL,
    occurred_on       DATE        NOT NULL,
    description       TEXT        NOT NULL,
    description_norm  TEXT        NOT NULL,
    amount_cents      BIGINT      NOT NULL,
    status            TEXT        NOT NULL DEFAULT 'open' CONSTRAINT pending_txns_status_check CHECK (status IN ('open', 'resolved')),
    answer            TEXT        NOT NULL DEFAULT '',   -- what the Status cell says: conflict:, incomplete:, changed: ... empty = fine
    answer_input      TEXT,                              -- fingerprint of the typed cells the answer was given to; another one clears it
    row_checksum      TEXT        NOT NULL,              -- hex SHA-256 over the shown content: tells a corrected row from an equal one
    seq               BIGINT      NOT NULL,              -- place in the tab: (seq, occurred_on, txn_uid)
    resolved_seq      BIGINT,
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT pending_txns_pkey PRIMARY KEY (company_id, txn_uid)
);
-- md5 only narrows the search (descriptions may be 60,000 characters, too long for an index); equality is always checked on the text.
CREATE INDEX IF NOT EXISTS pending_txns_open_idx ON pending_txns (company_id, md5(description_norm)) WHERE status = 'open';

-- Proposed rules: from the tab when they were read for a promotion, or inserted by SQL alone (then only the first five columns are given).
-- Only rows with promoted_in NULL count.
CREATE TABLE IF NOT EXISTS rules_pending (
    rule_id        UUID        NOT NULL DEFAULT gen_random_uuid(),
    company_id     VARCHAR(50) NOT NULL,
    source         TEXT        NOT NULL,
    source_norm    TEXT,                                 -- filled in by promote; SQL need not know how to normalise
    target_sheet   TEXT        NOT NULL DEFAULT '',
    target_header  TEXT        NOT NULL DEFAULT '',
    match_notes    TEXT        NOT NULL DEFAULT '',
    approved       BOOLEAN     NOT NULL DEFAULT FALSE,
    origin         TEXT        NOT NULL DEFAULT 'sql' CONSTRAINT rules_pending_origin_check CHECK (origin IN ('sql', 'sheet', 'left')), -- left = typed in a row that left the tab unapplied
    txn_uid        UUID,
    answer         TEXT        NOT NULL DEFAULT '',
    promoted_in    INTEGER,                              -- ruleset_versions.version that took it
    created_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT rules_pending_pkey PRIMARY KEY (company_id, rule_id)
);
CREATE INDEX IF NOT EXISTS rules_pending_txn_idx ON rules_pending (company_id, txn_uid) WHERE txn_uid IS NOT NULL;
CREATE INDEX IF NOT EXISTS rules_pending_waiting_idx ON rules_pending (company_id) WHERE promoted_in IS NULL;

-- The rules in force. One per (company_id, source_norm); the key is a hash because sources may be long.
CREATE TABLE IF NOT EXISTS rules_active (
    rule_id          UUID        NOT NULL DEFAULT gen_random_uuid(),
    company_id       VARCHAR(50) NOT NULL,
    source           TEXT        NOT NULL,
    source_norm      TEXT        NOT NULL,
    source_key       BYTEA       NOT NULL,               -- SHA-256 of source_norm
    target_sheet     TEXT        NOT NULL,
    target_header    TEXT        NOT NULL,
    match_notes      TEXT        NOT NULL DEFAULT '',
    ruleset_version  INTEGER     NOT NULL,               -- when it got its present content
    effective_at     TIMESTAMPTZ NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT rules_active_pkey PRIMARY KEY (company_id, rule_id),
    CONSTRAINT rules_active_one_per_source UNIQUE (company_id, source_key)
);

-- Append-only history; reverting is a new version.
CREATE TABLE IF NOT EXISTS ruleset_versions (
    company_id   VARCHAR(50) NOT NULL,
    version      INTEGER     NOT NULL,
    checksum     TEXT        NOT NULL,
    snapshot     JSONB       NOT NULL,
    request_key  TEXT,
    seq          BIGINT      NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT ruleset_versions_pkey PRIMARY KEY (company_id, version)
);

-- A promote request is applied once per (company_id, request_id or else created_at).
CREATE TABLE IF NOT EXISTS promote_requests (
    company_id    VARCHAR(50) NOT NULL,
    request_key   TEXT        NOT NULL,
    request_id    TEXT,
    requested_at  TIMESTAMPTZ NOT NULL,
    version       INTEGER,                               -- the version it made; NULL = nothing was approved
    outcome       JSONB       NOT NULL DEFAULT '{}',     -- counts: applied, conflicts, incomplete, replayed
    seq           BIGINT      NOT NULL,
    applied_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT promote_requests_pkey PRIMARY KEY (company_id, request_key)
);

-- The queue for whoever posts the money. A correction raises revision; what no longer holds is withdrawn, never deleted.
CREATE TABLE IF NOT EXISTS matched_txns (
    company_id       VARCHAR(50) NOT NULL,
    txn_uid          UUID        NOT NULL,
    rule_id          UUID        NOT NULL,
    ruleset_version  INTEGER     NOT NULL,
    target_sheet     TEXT        NOT NULL,
    target_header    TEXT        NOT NULL,
    amount_cents     BIGINT      NOT NULL,
    revision         INTEGER     NOT NULL DEFAULT 1,
    state            TEXT        NOT NULL DEFAULT 'queued' CONSTRAINT matched_txns_state_check CHECK (state IN ('queued', 'taken', 'withdrawn')),
    seq              BIGINT      NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT matched_txns_pkey PRIMARY KEY (company_id, txn_uid)
);
CREATE INDEX IF NOT EXISTS matched_txns_queued_idx ON matched_txns (company_id, seq) WHERE state = 'queued';

-- Events of this schema's companies: batch.ingested, pending.ready, rules.updated. Written in the transaction they report. The relay publishes
-- them in the order of seq for each company_id and sets published_at; a company's seqs are in the order of its commits, because whoever writes
-- them holds its company_state.
-- They are also the record of what happened in which order: each seq of company_state was taken by one batch.ingested (payload: seq, topic,
-- partition, offset, batch_signature) or by one promote_requests row. `kylo audit` applies the messages again in that order, so published
-- events are kept as long as the topics keep the messages.
CREATE TABLE IF NOT EXISTS outbox_events (
    seq           BIGINT GENERATED ALWAYS AS IDENTITY CONSTRAINT outbox_events_pkey PRIMARY KEY,
    event_id      UUID        NOT NULL DEFAULT gen_random_uuid(), -- random: an index that says so would cost as much as the row
    event_type    TEXT        NOT NULL,
    company_id    VARCHAR(50) NOT NULL,
    payload       JSONB       NOT NULL,
    traceparent   TEXT,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    published_at  TIMESTAMPTZ
);
CREATE INDEX IF NOT EXISTS outbox_events_unpublished_idx ON outbox_events (seq) WHERE published_at IS NULL;

INSERT INTO schema_migrations (version, name) VALUES (1, '0001_company') ON CONFLICT (version) DO NOTHING;
