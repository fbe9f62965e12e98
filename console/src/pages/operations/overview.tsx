/** How the service fares: each part, and the figures. */
import { useQuery } from "@tanstack/react-query";

import { getHealth, type HealthOut, type PartOut } from "../../api/operations";
import { when } from "../../i18n";
import { KEY, LOOK } from "./listed";
import { useOperationsTexts } from "./texts";
import css from "./overview.module.css";
import figureCss from "./figures.module.css";

export function useHealth() {
  return useQuery({
    queryKey: [KEY, "health"],
    queryFn: ({ signal }) => getHealth(signal),
    refetchInterval: LOOK,
    staleTime: LOOK,
    retry: false,
  });
}

/** The colour of a state, as notices.css has it. */
export const PILLS = { ok: "ok", warning: "warn", down: "bad", off: "", unknown: "warn" } as const;
export const OVERALL = { ok: "ok", degraded: "warn", down: "bad" } as const;

export function Overview({ health }: { health: HealthOut | undefined }) {
  const { t, o, language } = useOperationsTexts();
  if (!health) return <p className="dim">{t.loading}</p>;
  const { figures } = health;
  const number = (value: number | null) =>
    value === null ? "–" : value.toLocaleString(language === "zh" ? "zh-CN" : "en-GB");
  const bad: Partial<Record<keyof typeof o.figure, boolean>> = {
    outputs_in_trouble: true,
    jobs_failed: true,
    alerts_open: true,
    findings_open: true,
  };
  return (
    <>
      <section className="panel">
        <h2>{o.health}</h2>
        <ul className={css.parts}>
          {health.parts.map((part) => (
            <Part key={`${part.name} ${part.project ?? ""}`} part={part} />
          ))}
        </ul>
      </section>
      <section className="panel">
        <h2>{o.figures}</h2>
        <dl className={figureCss.figures}>
          {(Object.keys(o.figure) as (keyof typeof o.figure)[]).map((name) => (
            <div
              key={name}
              data-figure={name}
              data-bad={(bad[name] && figures[name] !== 0 && figures[name] !== null) || undefined}
            >
              <dt>{o.figure[name]}</dt>
              <dd>{number(figures[name])}</dd>
            </div>
          ))}
        </dl>
        <p className="dim">{o.figuresNote}</p>
      </section>
      <section className="panel">
        <h2>{o.assets}</h2>
        {figures.assets === null ? (
          <p className="dim">{o.uncounted}</p>
        ) : Object.keys(figures.assets).length ? (
          <dl className={figureCss.figures}>
            {Object.entries(figures.assets).map(([state, count]) => (
              <div
                key={state}
                data-assets={state}
                data-bad={(["failed", "missing"].includes(state) && count > 0) || undefined}
              >
                <dt>{o.assetStates[state] ?? state}</dt>
                <dd>{number(count)}</dd>
              </div>
            ))}
          </dl>
        ) : (
          <p className="dim">{o.noAssets}</p>
        )}
      </section>
      <p className={`dim ${css.foot}`}>
        {o.version} {health.version} · {o.updated(when(health.at, language))}
      </p>
    </>
  );
}

function Part({ part }: { part: PartOut }) {
  const { o } = useOperationsTexts();
  const facts = useFacts(part);
  return (
    <li className={css.part} data-tone={PILLS[part.state]} data-part={part.name} data-state={part.state}>
      <div className="row between">
        <h3>
          {o.parts[part.name]}
          {part.project ? <span className="dim"> {part.project}</span> : null}
        </h3>
        <span className={`state ${PILLS[part.state]}`}>{o.states[part.state]}</span>
      </div>
      {part.code ? <p>{o.codes[part.code] ?? part.code}</p> : null}
      {facts.length ? <p className="dim">{facts.join(", ")}</p> : null}
    </li>
  );
}

function useFacts(part: PartOut): string[] {
  const { o, language } = useOperationsTexts();
  const { alive, seconds, last_finished_at } = part.detail;
  const found: string[] = [];
  if (part.ms !== null && part.state !== "down") found.push(o.answered(part.ms));
  if (typeof alive === "number") found.push(o.living(alive));
  if (alive === 0) found.push(typeof seconds === "number" ? o.heard(seconds) : o.never);
  if (part.name === "patrol" && part.state !== "unknown")
    found.push(typeof last_finished_at === "string" ? o.lastRound(when(last_finished_at, language)) : o.noRound);
  return found;
}
