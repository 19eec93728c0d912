// The host's TLS certificate: what it is, a request for another of its key, and putting that in its place.

import { HOST, call, inside, read, ref, unboxed } from "/ui/api.js";
import { coloured, h, hex, list, time } from "/ui/dom.js";
import { folded, form, text, tick } from "/ui/forms.js";

const MANAGER = ref("HostCertificateManager", "ha-certificate-manager");
const COLOURS = { good: "good", expiring: "warn", expired: "bad" };

const wide = (label, name, more = {}) => h("label", {}, label,
  h("textarea", { name, rows: 8, spellcheck: "false", autocomplete: "off", ...more }));

const pairs = (bytes) => hex(bytes).toUpperCase().replace(/..(?=.)/g, "$&:");

// Of the first certificate of a chain in PEM, which is the host's own.
async function fingerprint(pem) {
  const body = pem.split("-----")[2];
  if (!body) return "";
  const der = Uint8Array.from(atob(body.replace(/\s/g, "")), (one) => one.charCodeAt(0));
  return pairs(new Uint8Array(await crypto.subtle.digest("SHA-256", der)));
}

function request(act) {
  const made = wide("Give this to your certification authority", "csr", { readonly: true, id: "csr" });
  const field = made.querySelector("textarea");
  made.hidden = true;
  const asked = form([
    text("Other names, with commas between", "names", { required: false, autocomplete: "off" }),
    tick("The host's address as its common name", "address")], "Make the request", async (given) => {
    const names = given.names.split(",").map((one) => one.trim()).filter(Boolean);
    await act(async () => {
      field.value = unboxed(await call(MANAGER, "GenerateCertificateSigningRequest", {
        useIpAddressAsCommonName: given.address === "on",
        spec: { _typeName: "HostCertificateManagerCertificateSpec", kind: "Machine", subjectAlternativeNames: names },
      }));
      made.hidden = false;
    }, "Request", "made");
    // What was asked for stays beside what came of it.
    return false;
  });
  return folded("request", "Request a certificate for the host's key", asked, made);
}

const install = (act) => folded("install", "Put a certificate in its place", form([
  wide("Certificate in PEM, the host's own first, then its chain", "cert", { required: true })],
"Replace the certificate", (given) => act(() => call(MANAGER, "InstallServerCertificate", { cert: given.cert }),
  "Certificate", "replaced. The host shows it in a moment: load this page again then")));

export async function certificate({ act, keep }) {
  const [info, summary, pem] = await Promise.all([
    read(MANAGER, "certificateInfo"), read(HOST, "summary"), inside(HOST, "config.certificate")]);
  const bytes = Uint8Array.from(pem || [], (one) => one & 255);
  const sha256 = await fingerprint(new TextDecoder().decode(bytes));
  keep.request ||= request(act);
  keep.install ||= install(act);
  const code = (value) => value && h("code", { class: "digest" }, value);
  return [h("h2", {}, "Certificate"),
    list([
      ["State", coloured(info.status, COLOURS[info.status] || "dim")],
      ["Of", info.subject], ["By", info.issuer],
      ["Good from", time(info.notBefore)], ["Good until", time(info.notAfter)],
      ["SHA-256", code(sha256)], ["SHA-1", code(summary.config.sslThumbprint)]]),
    h("p", { class: "dim" }, "Compare these with what your browser shows of the connection. ",
      "The key stays on the host: a certificate is only taken if it is of that key."),
    keep.request, keep.install];
}
