// The pages by the name in their address. Each reads what it shows and returns its elements.

export { activity } from "/ui/activity.js";
export { certificate } from "/ui/certificate.js";
export { consolePage as console } from "/ui/console.js";
export { files } from "/ui/files.js";
export { hardening } from "/ui/hardening.js";
export { measurements } from "/ui/measurements.js";
export { network } from "/ui/network.js";
export { host } from "/ui/overview.js";
export { packages } from "/ui/packages.js";
export { pools } from "/ui/pools.js";
export { storage } from "/ui/storage.js";
export { users } from "/ui/users.js";
export { vm, vms } from "/ui/vms.js";
