import { expect, test } from "vitest";
import type { Experiment } from "./api";
import { changeOf, clashes, differing, editOf, localTime, mergedOver, weightsOf, type Edit } from "./change";

const edit = (more: Partial<Edit> = {}): Edit => ({ priority: "50", deadline: "", slot_hours: "8", wall_hours: "", ...more });

test("a form shows what the file says", () => {
  const spec = { priority: 50, deadline: null, budget: { slot_hours: 8 } } as Experiment["spec"];
  expect(editOf({ spec })).toEqual(edit());
  expect(localTime(new Date(2026, 0, 2, 3, 4, 5).toISOString())).toBe("2026-01-02T03:04");
});

test("only what was changed is sent; a budget is sent whole", () => {
  expect(changeOf(edit(), edit())).toBeNull();
  expect(changeOf(edit(), edit({ priority: "70" }))).toEqual({ priority: 70 });
  expect(changeOf(edit(), edit({ wall_hours: "2.5" }))).toEqual({ budget: { slot_hours: 8, wall_hours: 2.5 } });
  expect(changeOf(edit(), edit({ slot_hours: "" }))).toEqual({ budget: { slot_hours: null, wall_hours: null } });
  expect(changeOf(edit(), edit({ deadline: "2026-01-02T03:04" }))).toEqual({ deadline: new Date(2026, 0, 2, 3, 4).toISOString() });
  expect(changeOf(edit({ deadline: "2026-01-02T03:04" }), edit())).toBeNull();
});

test("what somebody else changed is shown beside one's own, which stays", () => {
  const [read, theirs, mine] = [edit(), edit({ priority: "60", slot_hours: "9" }), edit({ priority: "70" })];
  expect(clashes(read, theirs, mine)).toEqual([{ field: "priority", read: "50", theirs: "60", mine: "70" }, { field: "slot_hours", read: "8", theirs: "9", mine: null }]);
  const merged = mergedOver(read, theirs, mine);
  expect(merged).toEqual(edit({ priority: "70", slot_hours: "9" }));
  expect(differing(theirs, merged)).toEqual(["priority"]);
});

test("weights are read as people write them", () => {
  expect(weightsOf("0: 1, 3: 2.5")).toEqual({ 0: 1, 3: 2.5 });
  expect(weightsOf("2、5=0.5")).toEqual({ 2: 1, 5: 0.5 });
  for (const text of ["", "a: 1", "1: -2", "1: x", "1 2"]) expect(weightsOf(text)).toBeNull();
});
