"""The workflows in a running n8n, from webhook to cell. Called by scripts/test-n8n.sh, which starts all parts.

Only the standard library. The checks run in order and build on each other, as a day does; each prints one line, and
the last line is `N passed, N failed`. Waiting is for a state, never for a time.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
N8N = os.environ["N8N_URL"]
SHEETS = os.environ["SHEETS_URL"].rstrip("/")
BOOK = f"{SHEETS}/_fake/spreadsheets/my-book"
ROLE = "kylo_" + os.environ["N8N_INSTANCE"]
EMPIRE = '710 EMPIRE "漢"'
SCHEMAS = {"710": "app_710", "711": "app_711", EMPIRE: "app_empire", "bulk": "app_bulk"}
PENDING = ["Txn_UID", "Date", "Source", "Company_ID", "Amount", "Target_Sheet", "Target_Header", "Match_Notes", "Approved", "Status"]
RUNBOOK = b"""{"batch_id":"rb-1","transactions":[
 {"id":"t1","company_id":"710","date":"2025-08-26","amount":-12.34,"description":"STARBUCKS"},
 {"id":"t2","company_id":"711","date":"2025-08-26","amount":45.67,"description":"WALMART"},
 {"id":"t3","company_id":"710","date":"2025-08-26","amount":10.00,"description":"UNKNOWN"}]}"""
# Starting, polling and answering on a busy machine; each wait ends as soon as its state is there.
PATIENCE = 120


def http(method, url, body=None, headers=()):
    """(status, text); an answer of any status is an answer."""
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def post(hook, body, content_type="application/json", **headers):
    """POSTs to a webhook; (status, answer), the answer parsed where it is JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    status, text = http("POST", f"{N8N}/webhook/{hook}", raw, {"Content-Type": content_type, **headers}.items())
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def ingest(*rows, **top):
    return post("txns.ingest", {"transactions": list(rows), **top})


def row(company, amount, description, **more):
    return {"company_id": company, "date": "2025-08-26", "amount": amount, "description": description, **more}


def sql(query, dsn=None):
    """Rows of a query, as a list of objects."""
    text = f"select coalesce(json_agg(t), '[]') from ({query}) t"
    done = subprocess.run([os.environ["PSQL"], "-XAtq", dsn or os.environ["PG_DSN_RW"], "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def execute(statement, dsn=None):
    done = subprocess.run([os.environ["PSQL"], "-Xq", dsn or os.environ["PG_DSN_RW"], "-c", statement], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def count(query):
    return sql(f"select count(*) as n {query}")[0]["n"]


def script(*command, **env):
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def cells(tab):
    """A tab's rows below its header as {header: text}; empty while there is no such tab."""
    status, text = http("GET", f"{BOOK}/grid?tab={urllib.request.quote(tab)}")
    if status != 200:
        return []
    rows = [[cell["shown"] for cell in line] for line in json.loads(text)["cells"]]
    return [dict(zip(rows[0], line)) for line in rows[1:] if any(line)]


def sources(company):
    return sorted(line["Source"] for line in cells(f"{company} Pending"))


def type_into(tab, row_number, **values):
    edits = [
        {"edit": "setCell", "tab": tab, "cell": f"{chr(ord('A') + PENDING.index(header))}{row_number}", "typed": typed}
        for header, typed in values.items()
    ]
    status, text = http("POST", f"{BOOK}/edits", json.dumps({"edits": edits}).encode(), {"Content-Type": "application/json"}.items())
    assert status == 200, text


def until(state, what):
    """Waits until `state()` is true; fails with what it was waiting for, and the last value."""
    end = time.monotonic() + PATIENCE
    while True:
        value = state()
        if value:
            return value
        assert time.monotonic() < end, f"after {PATIENCE} s still not: {what}; {value!r}"
        time.sleep(0.3)


def equal(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


def deliveries(company, batch_id):
    return sql(f"select sum(deliveries)::int as n from {SCHEMAS[company]}.ingest_batches where batch_id = '{batch_id}'")[0]["n"] or 0


def letters(company):
    return sql(f"select class, pointer, reason from control.dead_letters where company_id = '{company}' and state = 'new' order by id")


# --- Ingest ---------------------------------------------------------------------------------


def the_runbooks_payload_is_answered_with_two_messages():
    equal(post("txns.ingest", RUNBOOK), (200, {"ok": True, "items_published": 2, "rejects": []}))


def its_rows_are_in_the_pending_tabs_and_each_post_in_the_ledger():
    until(lambda: sources("710") == ["STARBUCKS", "UNKNOWN"] and sources("711") == ["WALMART"], "the rows are in the tabs")
    until(lambda: count("from control.sheet_posts") == 2, "two posts in the ledger")
    equal(sql("select tab_name, row_count from control.sheet_posts order by 1"), [{"tab_name": "710 Pending", "row_count": 2}, {"tab_name": "711 Pending", "row_count": 1}])
    equal(sorted(line["Amount"] for line in cells("710 Pending")), ["-12.34", "10.00"])


def the_same_again_is_answered_alike_and_changes_nothing():
    before, posts = [cells("710 Pending"), cells("711 Pending")], count("from control.sheet_posts")
    seen = deliveries("710", "rb-1"), deliveries("711", "rb-1")
    equal(post("txns.ingest", RUNBOOK), (200, {"ok": True, "items_published": 2, "rejects": []}))
    until(lambda: deliveries("710", "rb-1") > seen[0] and deliveries("711", "rb-1") > seen[1], "the second delivery has been seen")
    equal([count("from app_710.pending_txns"), count("from app_711.pending_txns"), count("from control.sheet_posts")], [2, 1, posts])
    equal([cells("710 Pending"), cells("711 Pending")], before)


def empty_and_malformed_payloads_are_a_4xx_that_says_why():
    for body in [b"", b"{}", b"[]", b'{"transactions":[]}', b'{"transactions":{}}', b'{"transactions":null}', b'{"batch_id":7,"transactions":[{}]}']:
        status, answer = post("txns.ingest", body)
        assert status == 400 and answer["ok"] is False and answer["error"] and answer["items_published"] == 0, (body, status, answer)
    status, answer = post("txns.ingest", b"{")
    assert status == 422 and answer, (status, answer)
    status, answer = post("txns.ingest", b"hello", "text/plain")
    assert status == 400 and answer["ok"] is False, (status, answer)
    status, answer = ingest({}, {"company_id": ""}, 5)
    assert status == 422 and answer["ok"] is False and [reject["index"] for reject in answer["rejects"]] == [0, 1, 2], (status, answer)


def a_payload_sent_without_content_type_is_understood():
    status, answer = post("txns.ingest", RUNBOOK, "application/x-www-form-urlencoded")
    equal((status, answer), (200, {"ok": True, "items_published": 2, "rejects": []}))


def of_bad_rows_some_are_rejected_at_once_and_some_become_dead_letters():
    status, answer = ingest(row("711", 1, "GOOD ROW"), row(None, 2, "NOBODY"), row("711", "1,23", "BAD AMOUNT"), row("711", 3, "BAD DATE", date="2025-02-30"), batch_id="bad")
    assert status == 200 and answer["items_published"] == 1 and [reject["index"] for reject in answer["rejects"]] == [1], answer
    until(lambda: "GOOD ROW" in sources("711"), "the good row is in the tab")
    equal([(letter["class"], letter["pointer"]) for letter in letters("711")], [("bad_amount", "/transactions/1"), ("bad_date", "/transactions/2")])


def an_unknown_company_becomes_a_dead_letter_and_the_others_go_on():
    status, answer = ingest(row("999", 1, "WHOSE"), row("711", 4, "BESIDE UNKNOWN"))
    equal((status, answer), (200, {"ok": True, "items_published": 2, "rejects": []}))
    until(lambda: "BESIDE UNKNOWN" in sources("711") and letters("999"), "the row is in the tab, the letter is written")
    equal(letters("999")[0]["class"], "unknown_company")


def odd_company_names_reach_their_company_and_no_other():
    odd = ["__proto__", "constructor", "={{ 1 + 1 }}", "a,b", "$1", " 710"]
    names = odd + [EMPIRE, "710"]
    status, answer = ingest(*[row(name, 5, f"ODD {at}") for at, name in enumerate(names)], row(711, 6, "NUMBERED"))
    equal((status, answer), (200, {"ok": True, "items_published": len(names) + 1, "rejects": []}))
    until(lambda: sources(EMPIRE) == ["ODD 6"] and "ODD 7" in sources("710") and "NUMBERED" in sources("711"), "the rows are in their tabs")
    until(lambda: all(letters(name) for name in odd), "each unknown name has its letter")


def an_exact_amount_beyond_doubles_arrives_with_every_cent():
    body = b'{"transactions":[{"id":"exact","company_id":"711","date":"2025-08-26","amount":9007199254740993.12,"description":"EXACT"}]}'
    equal(post("txns.ingest", body)[0], 200)
    until(lambda: "EXACT" in sources("711"), "the row is in the tab")
    equal(sql("select amount_cents::text as cents from app_711.pending_txns where description = 'EXACT'"), [{"cents": "900719925474099312"}])


def five_thousand_rows_are_split_and_equal_purchases_stay_apart():
    rows = [row("bulk", f"{n % 10}.00", f"BULK {n % 50}", memo=f"row {n}") for n in range(5000)]
    equal(ingest(*rows), (200, {"ok": True, "items_published": 3, "rejects": []}))
    until(lambda: count("from app_bulk.pending_txns where status = 'open'") == 5000, "5,000 open rows")
    until(lambda: len(cells("bulk Pending")) == 5000, "5,000 rows in the tab")
    equal(ingest(*rows), (200, {"ok": True, "items_published": 3, "rejects": []}))
    until(lambda: sql("select min(deliveries) as n from app_bulk.ingest_batches")[0]["n"] >= 2, "the second delivery has been seen")
    equal([count("from app_bulk.pending_txns"), len(cells("bulk Pending"))], [5000, 5000])


def thirty_requests_at_once_are_all_answered_and_all_arrive():
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: ingest(row("711", n, f"AT ONCE {n}", id=f"once-{n}")), range(30)))
    equal(answers, [(200, {"ok": True, "items_published": 1, "rejects": []})] * 30)
    until(lambda: len([source for source in sources("711") if source.startswith("AT ONCE")]) == 30, "thirty rows in the tab")


# --- Trouble --------------------------------------------------------------------------------


def with_kafka_down_the_answer_is_503_outcome_unknown_and_never_an_empty_200():
    script("scripts/down.sh", "--only", "kafka", PG_DSN_RW="")
    try:
        for hook, body in [("txns.ingest", {"transactions": [row("710", 7, "WHILE DOWN", id="down-1")]}), ("rules.promote", {"all": True})]:
            status, answer = post(hook, body)
            assert status == 503 and answer["ok"] is False, (hook, status, answer)
            assert "unknown" in answer["error"] and "safe" in answer["error"], answer
            assert answer["cause"] and "[object" not in answer["cause"], (hook, answer)
    finally:
        script("scripts/up.sh", "--only", "kafka", PG_DSN_RW="")


def with_kafka_back_sending_again_is_answered_200_and_the_row_is_there_once():
    until(lambda: ingest(row("710", 7, "WHILE DOWN", id="down-1")) == (200, {"ok": True, "items_published": 1, "rejects": []}), "n8n publishes again")
    until(lambda: "WHILE DOWN" in sources("710"), "the row is in the tab")
    equal(sources("710").count("WHILE DOWN"), 1)


# --- Promote --------------------------------------------------------------------------------


def approve(company, source, sheet, header):
    tab = f"{company} Pending"
    number = next(at for at, line in enumerate(cells(tab), start=2) if line["Source"] == source)
    type_into(tab, number, Target_Sheet=sheet, Target_Header=header, Approved="TRUE")


def an_approved_row_becomes_a_rule_when_the_webhook_asks_for_its_company():
    approve("710", "STARBUCKS", "OPEX", "COFFEE")
    equal(post("rules.promote", {"company_id": "710"}), (200, {"ok": True, "items_published": 1, "companies": ["710"]}))
    until(lambda: [line["Source"] for line in cells("710 Active")] == ["STARBUCKS"], "the rule is in the Active tab")
    until(lambda: "STARBUCKS" not in sources("710"), "the row has left the Pending tab")
    line = cells("710 Active")[0]
    equal([line[name] for name in ("Ruleset_Version", "Company_ID", "Target_Sheet", "Target_Header")], ["1", "710", "OPEX", "COFFEE"])


def all_companies_are_promoted_by_the_webhook_and_by_the_button():
    approve("711", "WALMART", "OPEX", "GROCERIES")
    status, answer = post("rules.promote", {"all": True, "request_id": "everyone-1"})
    equal((status, answer["items_published"], sorted(answer["companies"])), (200, 4, sorted(SCHEMAS)))
    until(lambda: [line["Source"] for line in cells("711 Active")] == ["WALMART"], "the rule is in the Active tab")
    approve(EMPIRE, "ODD 6", "OPEX", "ODD")
    said = script("scripts/n8n.sh", "promote")
    # The answer and nothing else: no warning of n8n or Node.js.
    equal(json.loads(said)["items_published"], 4)
    until(lambda: [line["Source"] for line in cells(f"{EMPIRE} Active")] == ["ODD 6"], "the button's rule is in the Active tab")


def a_promote_request_for_nobody_is_a_400_and_for_a_stranger_a_404():
    for body in [{}, {"company": "710"}, {"company_id": ""}, {"all": "yes"}, []]:
        status, answer = post("rules.promote", body)
        assert status == 400 and answer["ok"] is False, (body, status, answer)
    for stranger in ["999", "' or true --", "710,711", "{{ 1 }}"]:
        status, answer = post("rules.promote", {"company_id": stranger})
        assert status == 404 and answer["ok"] is False and "not configured" in answer["error"], (stranger, status, answer)


def with_the_database_down_promote_is_a_503_that_says_so_and_ingest_goes_on():
    execute("alter database kylo_n8n_test allow_connections false", f"{os.environ['SERVER_DSN']}/postgres")
    try:
        execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'kylo_n8n_test'", f"{os.environ['SERVER_DSN']}/postgres")
        status, answer = post("rules.promote", {"company_id": "710"})
        assert status == 503 and answer["ok"] is False and "database" in answer["error"], (status, answer)
        assert answer["cause"] and "[object" not in answer["cause"], answer
        equal(ingest(row("710", 8, "DATABASE DOWN", id="db-1"))[0], 200)
    finally:
        execute("alter database kylo_n8n_test allow_connections true", f"{os.environ['SERVER_DSN']}/postgres")
    until(lambda: "DATABASE DOWN" in sources("710"), "the row is in the tab")
    until(lambda: post("rules.promote", {"company_id": "710"})[0] == 200, "promote works again")


# --- What must not be anywhere --------------------------------------------------------------


def n8n_keeps_no_bank_rows_in_its_history_and_none_in_its_log():
    dsn = f"{os.environ['SERVER_DSN']}/{os.environ['N8N_INSTANCE']}"
    until(lambda: sql("select count(*) as n from execution_entity", dsn) == [{"n": 0}], "every run has ended and is gone")
    equal(sql("select count(*) as n from execution_data", dsn), [{"n": 0}])
    log = pathlib.Path(os.environ["N8N_LOG"]).read_text(errors="replace")
    assert not any(text in log for text in ("STARBUCKS", "WALMART", "BULK", "EXACT")), "a description is in n8n's log"


def n8ns_role_can_read_the_view_and_nothing_else():
    granted = sql(
        "select table_schema || '.' || table_name as name, privilege_type as may from information_schema.role_table_grants "
        f"where grantee = '{ROLE}' and table_schema not in ('pg_catalog', 'information_schema')"
    )
    equal(granted, [{"name": "control.companies", "may": "SELECT"}])


def with_a_token_set_callers_without_it_are_refused():
    token = {"X_Kylo_Token": "t0ken-of-this-test"}
    script("scripts/n8n.sh", "up", N8N_WEBHOOK_TOKEN=token["X_Kylo_Token"])
    for headers in ({}, {"X_Kylo_Token": "wrong"}):
        equal(post("txns.ingest", RUNBOOK, **headers)[0], 403)
        equal(post("rules.promote", {"all": True}, **headers)[0], 403)
    equal(post("txns.ingest", RUNBOOK, **token), (200, {"ok": True, "items_published": 2, "rejects": []}))
    equal(post("rules.promote", {"company_id": "710"}, **token)[0], 200)


CHECKS = [
    the_runbooks_payload_is_answered_with_two_messages,
    its_rows_are_in_the_pending_tabs_and_each_post_in_the_ledger,
    the_same_again_is_answered_alike_and_changes_nothing,
    empty_and_malformed_payloads_are_a_4xx_that_says_why,
    a_payload_sent_without_content_type_is_understood,
    of_bad_rows_some_are_rejected_at_once_and_some_become_dead_letters,
    an_unknown_company_becomes_a_dead_letter_and_the_others_go_on,
    odd_company_names_reach_their_company_and_no_other,
    an_exact_amount_beyond_doubles_arrives_with_every_cent,
    thirty_requests_at_once_are_all_answered_and_all_arrive,
    five_thousand_rows_are_split_and_equal_purchases_stay_apart,
    with_kafka_down_the_answer_is_503_outcome_unknown_and_never_an_empty_200,
    with_kafka_back_sending_again_is_answered_200_and_the_row_is_there_once,
    an_approved_row_becomes_a_rule_when_the_webhook_asks_for_its_company,
    all_companies_are_promoted_by_the_webhook_and_by_the_button,
    a_promote_request_for_nobody_is_a_400_and_for_a_stranger_a_404,
    with_the_database_down_promote_is_a_503_that_says_so_and_ingest_goes_on,
    n8n_keeps_no_bank_rows_in_its_history_and_none_in_its_log,
    n8ns_role_can_read_the_view_and_nothing_else,
    with_a_token_set_callers_without_it_are_refused,
]


def show_the_end():
    """What a person would look at."""
    print("\ncontrol.sheet_posts:")
    for line in sql("select company_id, tab_name, row_count from control.sheet_posts order by id"):
        print(f"  {line['company_id']:20} {line['tab_name']:28} {line['row_count']}")
    for tab in [f"{company} {role}" for company in SCHEMAS for role in ("Pending", "Active")]:
        lines = cells(tab)
        print(f"\n{tab}: {len(lines)} rows")
        for line in lines[:6]:
            print("  " + " | ".join(line.get(name, "") for name in line if name != "Txn_UID"))
        if len(lines) > 6:
            print("  ...")


def main():
    passed, failed = 0, 0
    for check in CHECKS:
        name, began = check.__name__.replace("_", " "), time.monotonic()
        try:
            check()
            passed += 1
            print(f"ok      {name} ({time.monotonic() - began:.1f} s)")
        except Exception:  # the next check is asked all the same
            failed += 1
            print(f"FAILED  {name} ({time.monotonic() - began:.1f} s)")
            traceback.print_exc(file=sys.stdout)
    try:
        show_the_end()
    except Exception:
        traceback.print_exc(file=sys.stdout)
    print(f"\n{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
