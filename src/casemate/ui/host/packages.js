// Signed packages and loaded modules: who made them, who vouches for them, and changes of them.

import { call, ref } from "/ui/api.js";
import { h, list, table } from "/ui/dom.js";
import { button, choice, folded, form, text } from "/ui/forms.js";

const IMAGE = ref("HostImageConfigManager", "ha-image-config-manager");
const PATCHES = ref("HostPatchManager", "ha-host-patch-manager");
const MODULES = ref("HostKernelModuleSystem", "kernelModuleSystem");
const LEVELS = [["vmware_certified", "certified"], ["vmware_accepted", "accepted"],
  ["partner", "partner"], ["community", "community"]];
const named = Object.fromEntries(LEVELS);

export async function packages({ act, keep }) {
  const [level, profile, found, modules] = await Promise.all([
    call(IMAGE, "HostImageConfigGetAcceptance"), call(IMAGE, "HostImageConfigGetProfile"),
    call(IMAGE, "fetchSoftwarePackages"), call(MODULES, "QueryModules").catch(() => null)]);
  keep.install ||= folded("install", "Install a VIB", form(
    [text("File", "path", { placeholder: "[datastore1] driver.vib" })], "Verify and install",
    ({ path }) => act(() => call(PATCHES, "InstallHostPatchV2_Task", { vibUrls: [path] }), "Install")));
  keep.level ||= folded("level", "Change the acceptance level", form(
    [choice("Acceptance level", "level", LEVELS, level)], "Change", (given) =>
      act(() => call(IMAGE, "UpdateHostImageAcceptanceLevel", { newAcceptanceLevel: given.level }), "Change")));
  return [h("h2", {}, "Packages"),
    list([["Image profile", profile.name], ["Vendor", profile.vendor], ["Acceptance level", named[level] || level]]),
    keep.install, keep.level,
    h("p", { class: "dim" }, "Changes go to the other boot bank: they run, measured, from the next start on."),
    h("h3", {}, "Installed VIBs"),
    table(["Name", "Version", "Vendor", "Level", "Signer", "Payloads", ""],
      (found || []).map((one) => [h("span", { class: "whole" }, one.name), one.version, one.vendor,
        named[one.acceptanceLevel] || one.acceptanceLevel, one.description.replace(/^Signed by /, ""),
        h("code", {}, (one.payload || []).join(" ")),
        button("Remove", `Uninstall-${one.name}`, () => act(() => call(PATCHES, "UninstallHostPatch_Task",
          { bulletinIds: [`${one.vendor}_bootbank_${one.name}_${one.version}`] }), "Remove"),
        { question: `Remove ${one.name} from the image that starts next?` })])),
    h("h3", {}, "Modules"),
    table(["Name", "File", "Version", "In use", "Options"], (modules || []).map((one) => [
      one.name, h("code", {}, one.filename), one.version, String(one.useCount), one.optionString])),
  ];
}
