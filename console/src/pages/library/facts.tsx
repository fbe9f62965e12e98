/** What a file is, in words. */
import type { AssetOut } from "../../api/library";
import { bytes, clock, useTexts, when } from "../../i18n";
import { factsOf, formatName, reason } from "./words";
import css from "./detail.module.css";

export function Facts({ asset }: { asset: AssetOut }) {
  const { t, language } = useTexts();
  const facts = asset.facts as Record<string, unknown>;
  const known: [string, string][] = [
    [t.detail.format, formatName(t, formatOf(asset))],
    [t.detail.size, bytes(asset.size_bytes)],
  ];
  if (asset.duration_seconds) known.push([t.detail.duration, clock(asset.duration_seconds)]);
  known.push(...factsOf(t, facts, language), [t.detail.added, when(asset.created_at, language)]);
  const problem = asset.inspect_error ?? (typeof facts.decode_error === "string" ? facts.decode_error : null);
  const reading = asset.status === "ready" && !asset.inspect_error && !Object.keys(facts).length;
  return (
    <section>
      <h3>{t.detail.facts}</h3>
      {problem ? (
        <div className="notice warn">
          <strong>{t.detail.inspectError}</strong>
          <p>{reason(t, problem)}</p>
        </div>
      ) : null}
      {reading ? (
        <p className="dim" role="status">
          {t.detail.reading}
        </p>
      ) : null}
      <dl className={css.facts}>
        {known.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

/** What the file says it is; before that is known, what its name says. */
function formatOf(asset: AssetOut): string {
  const extension = asset.s3_key.split(".").pop()?.toLowerCase() ?? "";
  const licence = (asset.facts as { licence?: { spec?: string } }).licence;
  if (extension === "vrm" && licence?.spec) return licence.spec === "1.0" ? "vrm1" : "vrm0";
  return extension;
}
