"""The tables of a verifier. Written for SQLite; ``database`` names the types for PostgreSQL.

Every start runs it on whatever store there is. Of alarms that verifiers before ``alarm_once``
raised twice, the first one stays.
"""

from __future__ import annotations

SCHEMA = """
CREATE TABLE IF NOT EXISTS value (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS host (
    name TEXT PRIMARY KEY, address TEXT NOT NULL, mode TEXT NOT NULL, state TEXT NOT NULL,
    record TEXT NOT NULL, ek TEXT NOT NULL, issuer TEXT NOT NULL, identity TEXT NOT NULL,
    profile TEXT NOT NULL, cadence REAL NOT NULL, next_due REAL NOT NULL,
    lease_owner TEXT NOT NULL, lease_until REAL NOT NULL, last_tried REAL NOT NULL,
    last_good REAL NOT NULL, policy INTEGER NOT NULL, reference TEXT NOT NULL,
    verdict TEXT NOT NULL, counters TEXT NOT NULL, token TEXT NOT NULL, added REAL NOT NULL);
CREATE INDEX IF NOT EXISTS host_due ON host (next_due);
CREATE INDEX IF NOT EXISTS host_ek ON host (ek);
CREATE INDEX IF NOT EXISTS host_token ON host (token);
CREATE TABLE IF NOT EXISTS proposal (
    host TEXT PRIMARY KEY, ek TEXT NOT NULL, issuer TEXT NOT NULL, identity TEXT NOT NULL,
    proposer TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS nonce (
    value BLOB PRIMARY KEY, host TEXT NOT NULL, purpose TEXT NOT NULL, issued REAL NOT NULL,
    lifetime REAL NOT NULL, spent INTEGER NOT NULL, payload TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS nonce_issued ON nonce (issued);
CREATE INDEX IF NOT EXISTS nonce_host ON nonce (host);
CREATE TABLE IF NOT EXISTS round (
    number INTEGER PRIMARY KEY AUTOINCREMENT, host TEXT NOT NULL, time REAL NOT NULL,
    outcome TEXT NOT NULL, state TEXT NOT NULL, reference TEXT NOT NULL, policy INTEGER NOT NULL,
    millis REAL NOT NULL, nonce BLOB NOT NULL, result BLOB NOT NULL, evidence BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS round_nonce ON round (nonce);
CREATE INDEX IF NOT EXISTS round_host ON round (host, number);
CREATE TABLE IF NOT EXISTS reference (
    identifier TEXT PRIMARY KEY, profile TEXT NOT NULL, build TEXT NOT NULL,
    serial INTEGER NOT NULL, signer TEXT NOT NULL, added REAL NOT NULL, added_by TEXT NOT NULL,
    until REAL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS policy (
    identifier TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
    signer TEXT NOT NULL, added REAL NOT NULL, added_by TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS assignment (
    host TEXT PRIMARY KEY, policy TEXT NOT NULL, own TEXT NOT NULL, approved_by TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL,
    thing TEXT NOT NULL, why TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS alarm (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, host TEXT NOT NULL,
    code TEXT NOT NULL, sentence TEXT NOT NULL, cleared REAL NOT NULL);
CREATE INDEX IF NOT EXISTS alarm_open ON alarm (cleared);
DELETE FROM alarm WHERE cleared=0 AND EXISTS (SELECT 1 FROM alarm AS first WHERE first.cleared=0
    AND first.host=alarm.host AND first.code=alarm.code AND first.number<alarm.number);
CREATE UNIQUE INDEX IF NOT EXISTS alarm_once ON alarm (host, code) WHERE cleared=0;
CREATE TABLE IF NOT EXISTS notice (
    number INTEGER PRIMARY KEY AUTOINCREMENT, identifier TEXT NOT NULL, destination TEXT NOT NULL,
    host TEXT NOT NULL, code TEXT NOT NULL, sentence TEXT NOT NULL, time REAL NOT NULL,
    due REAL NOT NULL, tries INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS notice_due ON notice (destination, due);
CREATE INDEX IF NOT EXISTS notice_time ON notice (time);
CREATE TABLE IF NOT EXISTS worker (
    name TEXT PRIMARY KEY, seen REAL NOT NULL, started REAL NOT NULL, stopped INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS person (
    name TEXT PRIMARY KEY, role TEXT NOT NULL, hash TEXT NOT NULL, failures INTEGER NOT NULL,
    locked_until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS signin (
    state TEXT PRIMARY KEY, cookie TEXT NOT NULL, nonce TEXT NOT NULL, verifier TEXT NOT NULL,
    started REAL NOT NULL);
CREATE TABLE IF NOT EXISTS session (
    digest TEXT PRIMARY KEY, person TEXT NOT NULL, csrf TEXT NOT NULL, started REAL NOT NULL,
    used REAL NOT NULL);
"""
