// Reservation, limit and shares of CPU and memory, as VMs and pools have them.

import { choice, number } from "/ui/forms.js";

const LEVELS = ["low", "normal", "high", "custom"].map((one) => [one, one]);
const UNLIMITED = -1;

export function allocationFields(config) {
  const fields = (what, unit, name) => {
    const now = config?.[`${name}Allocation`];
    return [
      number(`${what} reservation, ${unit}`, `${name}-reservation`, now?.reservation ?? 0),
      number(`${what} limit, ${unit} (${UNLIMITED}: none)`, `${name}-limit`, now?.limit ?? UNLIMITED, { min: UNLIMITED }),
      choice(`${what} shares`, `${name}-level`, LEVELS, now?.shares.level ?? "normal"),
      number(`${what} shares, if custom`, `${name}-shares`, now?.shares.shares ?? 1000, { min: 1 }),
    ];
  };
  return [...fields("CPU", "MHz", "cpu"), ...fields("Memory", "MiB", "memory")];
}

// ResourceAllocationInfo from the values of a form; what a pool grows by stays as it was.
export const allocation = (given, name, before) => ({
  reservation: Number(given[`${name}-reservation`]),
  limit: Number(given[`${name}-limit`]),
  expandableReservation: before?.expandableReservation ?? true,
  shares: { level: given[`${name}-level`], shares: Number(given[`${name}-shares`]) },
});
