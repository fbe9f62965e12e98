/** The page's address: which part is shown, what it is narrowed by, what is opened. */
export const TABS = ["overview", "shows", "patrol", "jobs", "alerts", "audit"] as const;
export type Tab = (typeof TABS)[number];

export const FINDING_KINDS = ["missing", "mismatch", "object_without_row", "row_without_object"] as const;
export const JOB_STATES = ["todo", "doing", "failed", "cancelled", "aborted"] as const;
export const RESULTS = ["ok", "refused", "failed"] as const;

export interface OperationsSearch {
  tab?: Tab;
  /** Of shows, and of the audit trail. */
  room?: string;
  owner?: string;
  show?: string;
  kind?: (typeof FINDING_KINDS)[number];
  closed?: boolean;
  status?: (typeof JOB_STATES)[number];
  task?: string;
  actor?: string;
  action?: string;
  subject?: string;
  result?: (typeof RESULTS)[number];
  from?: string;
  to?: string;
}

export function readSearch(given: Record<string, unknown>): OperationsSearch {
  const text = (name: string) => {
    const value = given[name];
    return typeof value === "string" && value
      ? value.slice(0, 200)
      : typeof value === "number"
        ? String(value)
        : undefined;
  };
  const one = <T extends string>(name: string, of: readonly T[]) => of.find((value) => value === given[name]);
  const moment = (name: string) => {
    const value = text(name);
    return value && !Number.isNaN(Date.parse(value)) ? value : undefined;
  };
  const search: OperationsSearch = {
    tab: one("tab", TABS),
    room: text("room"),
    owner: text("owner"),
    show: text("show"),
    kind: one("kind", FINDING_KINDS),
    closed: given.closed === true || undefined,
    status: one("status", JOB_STATES),
    task: text("task"),
    actor: text("actor"),
    action: text("action"),
    subject: text("subject"),
    result: one("result", RESULTS),
    from: moment("from"),
    to: moment("to"),
  };
  for (const name of Object.keys(search) as (keyof OperationsSearch)[])
    if (search[name] === undefined) delete search[name];
  return search;
}

export type Change = (values: Partial<OperationsSearch>) => void;
