// VI/JSON: one function to call, one to read, and the session they use.

const BASE = "/sdk/vim25/9.1.0.0";
const HEADER = "vmware-api-session-id";
const KEPT = "casemate-session";
const TICKET_SECONDS = 30;

export const ref = (type, value) => ({ _typeName: "ManagedObjectReference", type, value });
export const SESSIONS = ref("SessionManager", "ha-sessionmgr");
export const HOST = ref("HostSystem", "ha-host");
export const ROOT_POOL = ref("ResourcePool", "ha-root-pool");

export class Fault extends Error {
  constructor(body) {
    super(body.faultstring || body._typeName);
    this.kind = body._typeName;
  }
}

export const session = {
  get id() { return sessionStorage.getItem(KEPT) || ""; },
  set id(value) {
    if (value) sessionStorage.setItem(KEPT, value);
    else sessionStorage.removeItem(KEPT);
  },
};

async function ask(target, member, options) {
  const path = [BASE, ...[target.type, target.value, member].map(encodeURIComponent)].join("/");
  const headers = { "content-type": "application/json" };
  if (session.id) headers[HEADER] = session.id;
  const answer = await fetch(path, { ...options, headers, credentials: "omit" });
  if (member === "Login" && answer.headers.has(HEADER)) session.id = answer.headers.get(HEADER);
  if (answer.status === 204) return null;
  const body = await answer.json();
  if (!answer.ok) throw new Fault(body);
  return body;
}

export const call = (target, method, parameters = {}) =>
  ask(target, method, { method: "POST", body: JSON.stringify(parameters) });

export const read = (target, property) => ask(target, property, { method: "GET" });

export const unboxed = (value) =>
  value && typeof value === "object" && "_value" in value ? value._value : value;

// Properties of everything that a property of one object refers to: [{ ref, name: value }].
export async function members(owner, path, type, pathSet) {
  const found = await call(
    ref("PropertyCollector", "ha-property-collector"), "RetrievePropertiesEx", {
      specSet: [{
        propSet: [{ type, pathSet }],
        objectSet: [{
          obj: owner, skip: true,
          selectSet: [{ _typeName: "TraversalSpec", type: owner.type, path }],
        }],
      }],
      options: {},
    });
  return (found ? found.objects || [] : []).map((one) => ({
    ref: one.obj,
    ...Object.fromEntries((one.propSet || []).map((p) => [p.name, unboxed(p.val)])),
  }));
}

// One property of one object by a path into it, without what lies beside it.
export async function inside(obj, path) {
  const found = await call(
    ref("PropertyCollector", "ha-property-collector"), "RetrievePropertiesEx", {
      specSet: [{ propSet: [{ type: obj.type, pathSet: [path] }], objectSet: [{ obj }] }], options: {},
    });
  const [only] = found?.objects?.[0]?.propSet || [];
  return only ? unboxed(only.val) : null;
}

export async function login(userName, password) {
  session.id = "";
  return call(SESSIONS, "Login", { userName, password });
}

export async function logout() {
  try { await call(SESSIONS, "Logout"); } finally { session.id = ""; }
}

// A ticket for one request that no script can sign: it goes as a cookie, for this request alone.
export async function service(method, path) {
  const spec = { _typeName: "SessionManagerHttpServiceRequestSpec", method, url: `https://${location.host}${path}` };
  const { id } = await call(SESSIONS, "AcquireGenericServiceTicket", { spec });
  document.cookie = `vmware_cgi_ticket=${id}; path=/folder; max-age=${TICKET_SECONDS}; secure; samesite=strict`;
}

export async function evidence() {
  const nonce = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(32))));
  const answer = await fetch("/attestation/v1/evidence", {
    method: "POST", credentials: "omit",
    body: JSON.stringify({ nonce, banks: ["sha256"], pcrs: [...Array(24).keys()] }),
  });
  const body = await answer.json();
  if (!answer.ok) throw new Fault({ faultstring: body.error.reason });
  return { nonce, ...body };
}

export async function identity() {
  const answer = await fetch("/attestation/v1/identity", { credentials: "omit" });
  const body = await answer.json();
  if (!answer.ok) throw new Fault({ faultstring: body.error.reason });
  return body;
}
