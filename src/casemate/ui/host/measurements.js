// What was measured: the boot as a chain, every event, and a replay of the log that the browser itself computes.

import { HOST, call, evidence, identity } from "/ui/api.js";
import { chain } from "/ui/drawing.js";
import { coloured, h, hex, list, table } from "/ui/dom.js";

const PCR_BYTES = 32;
const DRTM_PCRS = [17, 22];
const STAGES = [
  ["Firmware", (one, pcr) => pcr < 8],
  ["Loader", (one, pcr) => pcr === 17 || (one.componentName || "").startsWith("b.b00")],
  ["Options, keys", (one) => /BootSecurityOption|Command|Signer|Options/.test(one._typeName)],
  ["Kernel", (one) => (one.componentName || "").startsWith("k.b00")],
  ["Packages", (one) => Boolean(one.vibName) || Boolean(one.componentName)],
  ["Complete", (one) => /BootComplete/.test(one._typeName)],
];

const shown = (details) => details.componentName || details.bootSecurityOption
  || details.commandLine || details.optionsFileName || details.systemVersion || "";
const digest = (bytes) => h("code", { class: "digest" }, hex(bytes));
const kind = (details) => details._typeName.replace(/^HostTpm|EventDetails$/g, "");
const bytes = (values) => Uint8Array.from(values || [], (one) => one & 255);
const vib = (details) => [details.vibName, details.vibVersion].filter(Boolean).join(" ");

async function extend(value, dataHash) {
  const both = new Uint8Array(PCR_BYTES * 2);
  both.set(value);
  both.set(dataHash, PCR_BYTES);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", both));
}

// A PCR as the log says it should be; events without a digest of this bank leave it as it is.
async function replay(events, pcr) {
  let value = new Uint8Array(PCR_BYTES);
  for (const one of events.filter((each) => each.pcrIndex === pcr)) {
    const found = bytes(one.eventDetails.dataHash);
    if (found.length === PCR_BYTES) value = await extend(value, found);
  }
  return hex(value);
}

function judged(events, pcr, value, replayed) {
  const many = events.filter((each) => each.pcrIndex === pcr).length;
  if (value === replayed && many) return coloured(`replayed: ${many} ${many === 1 ? "event" : "events"}`, "good");
  const untouched = /^(0+|f+)$/.test(value);
  if (untouched && !many) return coloured("never extended", "dim");
  return coloured(pcr < DRTM_PCRS[0] || pcr > DRTM_PCRS[1] ? "not explained by this report"
    : "not explained by the log", "warn");
}

function stages(events) {
  const found = STAGES.map(([name]) => ({ name, events: 0 }));
  for (const { pcrIndex, eventDetails } of events) {
    const place = STAGES.findIndex(([, mine]) => mine(eventDetails, pcrIndex));
    if (place >= 0) found[place].events += 1;
  }
  return found.filter((one) => one.events);
}

function filtered(events) {
  const body = h("div", {});
  const search = h("input", { type: "search", "aria-label": "Search the events", placeholder: "Search the events" });
  const draw = () => {
    const wanted = search.value.toLowerCase();
    const rows = events.map((one) => [String(one.pcrIndex), kind(one.eventDetails),
      shown(one.eventDetails), vib(one.eventDetails), one.eventDetails.dataHash])
      .filter((row) => row.slice(0, 4).join(" ").toLowerCase().includes(wanted) || hex(row[4]).includes(wanted));
    body.replaceChildren(table(["PCR", "Event", "What", "VIB", "SHA-256"], rows.map(
      ([pcr, what, name, from, hash]) => [pcr, what, h("span", { class: "any" }, name), from, digest(hash)]), [0]));
  };
  search.addEventListener("input", draw);
  draw();
  return [h("p", {}, search), body];
}

export async function measurements({ act, keep }) {
  const [report, tpm] = await Promise.all([
    call(HOST, "QueryTpmAttestationReport"), identity()]);
  const events = report.tpmEvents || [];
  const proof = h("div", { id: "proof" }, keep.proof || "");
  const prove = async () => {
    const found = await evidence();
    keep.proof = list([["Nonce", h("code", {}, found.nonce)],
      ["Quotes", `${found.quotes.length}, signed by the TPM`],
      ["Log", `${found.log.length} characters of base64`],
      ["Components", String(found.components.length)],
      ["Boot complete", found.bootComplete ? "yes" : "no"]]);
    proof.replaceChildren(keep.proof);
  };
  const pcrs = await Promise.all(report.tpmPcrValues.map(async (one) => {
    const value = hex(one.digestValue);
    return [String(one.pcrNumber), digest(one.digestValue),
      judged(events, one.pcrNumber, value, await replay(events, one.pcrNumber))];
  }));
  return [h("h2", {}, "Measurements"),
    list([["TPM", `${tpm.manufacturer} ${tpm.firmwareVersion} (${tpm.kind})`],
      ["Log", report.tpmLogReliable
        ? coloured("explains every PCR of the hypervisor", "good")
        : coloured("does not explain the PCRs", "bad")],
      ["Verdict", "A host does not judge itself: ask a verifier."]]),
    h("div", { class: "row" }, h("button", { type: "button", onclick: () => act(prove, "") },
      "Ask for a proof with a fresh nonce")), proof,
    h("h3", {}, "The boot, stage by stage"), chain(stages(events)),
    h("h3", {}, "Event log"), filtered(events),
    h("h3", {}, "PCRs, and what this browser makes of the log"),
    table(["PCR", "SHA-256", "Replay"], pcrs, [0])];
}
