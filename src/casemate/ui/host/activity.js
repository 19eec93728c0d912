// What was asked of the host, and what happened.

import { call, members, ref } from "/ui/api.js";
import { coloured, h, table, time } from "/ui/dom.js";
import { button } from "/ui/forms.js";

const EVENTS = 100;
const COLOURS = { success: "good", error: "bad", running: "warn" };

const state = (info) => coloured(info.state === "running" && info.progress != null
  ? `running, ${info.progress} %` : info.state, COLOURS[info.state]);

export async function activity({ act }) {
  const [tasks, events] = await Promise.all([
    members(ref("TaskManager", "ha-taskmgr"), "recentTask", "Task", ["info"]),
    call(ref("EventManager", "ha-eventmgr"), "QueryEvents", { filter: {} })]);
  return [h("h2", {}, "Tasks and events"), h("h3", {}, "Tasks"),
    table(["Task", "On", "By", "State", "Queued", "Why it failed", ""],
      tasks.map(({ info }) => info).reverse().map((info) => [
        info.name || info.descriptionId, info.entityName, info.reason.userName, state(info),
        time(info.queueTime), info.error ? info.error.localizedMessage : "",
        info.cancelable && info.state === "running" ? button("Cancel", `CancelTask-${info.key}`,
          () => act(() => call(info.task, "CancelTask"), "Cancel")) : ""])),
    h("h3", {}, "Events"),
    table(["When", "Who", "What"], (events || []).slice(-EVENTS).reverse().map((one) => [
      time(one.createdTime), one.userName, one.fullFormattedMessage]))];
}
