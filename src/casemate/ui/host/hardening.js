// The page of memory hardening: options that were measured, and the audit when it is asked for.

import { HOST, call, read, ref } from "/ui/api.js";
import { coloured, h, list, table } from "/ui/dom.js";

const DIAGNOSTICS = ref("DiagnosticManager", "ha-diagnosticmgr");
const LINES = 1000;

async function audit() {
  const things = [];
  for (let start = 1; ;) {
    const found = await call(DIAGNOSTICS, "BrowseDiagnosticLog", { key: "hardening", start, lines: LINES });
    things.push(...(found.lineText || []).map((line) => JSON.parse(line)));
    if ((found.lineText || []).length < LINES) return things;
    start = found.lineEnd + 1;
  }
}

const all = (things, name) => things.filter((one) => name in one).map((one) => one[name]);
const bad = (rules) => Object.entries(rules).filter(([, outcome]) => outcome === "failed")
  .map(([rule]) => rule).join(", ");

function result(things) {
  const [score] = all(things, "score");
  const [entropy] = all(things, "entropy");
  const regions = [...new Set(Object.values(entropy).flatMap((one) => Object.keys(one)))];
  // A rule that many components break is one line.
  const groups = new Map();
  for (const one of all(things, "finding")) {
    const key = JSON.stringify([one.code, one.reason, one.remedy]);
    groups.set(key, [...(groups.get(key) || []), one.component]);
  }
  return [
    list([["Score", `${score} of 100`], ["Components", String(all(things, "component").length)]]),
    h("h3", {}, "Processes"),
    table(["Process", "Domain", "Rules", "Broken"], all(things, "process").map((one) => [
      one.process, one.domain, String(Object.keys(one.rules).length),
      bad(one.rules) ? coloured(bad(one.rules), "bad") : coloured("none", "good")]), [2]),
    h("h3", {}, "Random bits of addresses, measured"),
    table(["Process", ...regions], Object.entries(entropy).map(([name, one]) => [
      name, ...regions.map((region) => one[region]
        ? coloured(`${one[region].bits} of ${one[region].wanted}`,
          one[region].bits >= one[region].wanted ? "good" : "bad") : "")])),
    h("h3", {}, "Findings"),
    table(["Code", "Where", "Why", "What to do"], [...groups].map(([key, where]) => {
      const [code, reason, remedy] = JSON.parse(key);
      const places = where.length > 3 ? `${where[0]} and ${where.length - 1} more` : where.join(", ");
      return [h("code", {}, code), h("span", { class: "any" }, places), reason, remedy];
    })),
  ];
}

export async function hardening({ act, keep }) {
  const [report, summary, mode, issues, options] = await Promise.all([
    call(HOST, "QueryTpmAttestationReport"), read(HOST, "summary"),
    read(ref("HostAccessManager", "ha-host-access-manager"), "lockdownMode"),
    read(HOST, "configIssue"),
    call(ref("OptionManager", "ha-adv-options"), "QueryOptions")]);
  // Each is measured into a PCR of either layout.
  const found = [...new Set(report.tpmEvents.map((one) => one.eventDetails)
    .filter((one) => one._typeName === "HostTpmBootSecurityOptionEventDetails")
    .map((one) => one.bootSecurityOption))];
  const shown = h("div", { id: "audit" }, keep.audit || "");
  const look = async () => {
    shown.replaceChildren(h("p", { class: "dim" }, "Programs are being launched and looked at…"));
    try {
      keep.audit = result(await audit());
    } finally {
      shown.replaceChildren(...[keep.audit || ""].flat());
    }
  };
  return [h("h2", {}, "Hardening"),
    list([
      ["Health", coloured(summary.overallStatus, summary.overallStatus === "green" ? "good" : "warn")],
      ["Lockdown", mode],
      ["Model", summary.hardware.model],
      ...(issues || []).map((one) => ["Warning", coloured(one.fullFormattedMessage, "warn")]),
    ]),
    h("div", { class: "row" },
      h("button", { type: "button", onclick: () => act(look, "") }, "Audit the whole host now")), shown,
    h("h3", {}, "Security options, as measured into the TPM"),
    table(["Option"], found.map((one) => [h("code", {}, one)])),
    h("h3", {}, "Advanced options"),
    table(["Name", "Value"], (options || []).map((one) => [h("code", {}, one.key),
      String(one.value._value ?? "")]))];
}
