/** One platform of a show: what is true about it, why it is not well, and what can be done. */
import { useEffect, useState } from "react";

import { isUp, retryOutput, stopOutput, type OutputOut, type StatusOut } from "../../api/live";
import { useTellError } from "../../components/toasts";
import { clock, useTexts } from "../../i18n";
import { platformName } from "../../live/platforms";
import css from "./output.module.css";

/** Now, by the service's clock, twice a second. */
function useNow(ahead: number): number {
  const [now, set] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => set(Date.now()), 500);
    return () => clearInterval(timer);
  }, []);
  return now + ahead;
}

function Since({ moment, ahead }: { moment: string; ahead: number }) {
  return <>{clock((useNow(ahead) - Date.parse(moment)) / 1000)}</>;
}

function NextTry({ moment, ahead }: { moment: string; ahead: number }) {
  const { t } = useTexts();
  const seconds = Math.ceil((Date.parse(moment) - useNow(ahead)) / 1000);
  return <>{seconds > 0 ? t.stage.retryIn(seconds) : t.stage.retrying}</>;
}

export function Output({
  output,
  figures,
  ahead,
  onAir,
  take,
  onNewKey,
}: {
  output: OutputOut;
  figures?: NonNullable<OutputOut["metrics"]>;
  ahead: number;
  onAir: boolean;
  take: (status: StatusOut) => void;
  onNewKey: (destination: string) => void;
}) {
  const { t } = useTexts();
  const tellError = useTellError();
  const [busy, setBusy] = useState(false);
  const act = (work: Promise<StatusOut>) => {
    setBusy(true);
    void work
      .then(take)
      .catch(tellError)
      .finally(() => setBusy(false));
  };
  const name = [platformName(output.platform), output.label].filter(Boolean).join(" ");
  const up = isUp(output);
  const live = output.state === "live";
  const { error } = output;
  const code = error?.cause?.code ?? error?.code ?? "";
  const badKey =
    ["key_rejected", "invalid_destination", "login_required", "redirected"].includes(code) ||
    // A key that worked may have been renewed at the platform since.
    (output.state === "error" && ["destination_closed", "already_publishing"].includes(code));
  return (
    <li className={css.output} data-platform={output.platform} data-state={output.state} data-code={error?.code ?? ""}>
      <div className="row between">
        <b className={css.name}>
          {platformName(output.platform)} {output.label}
        </b>
        <span className={`state ${output.state}`} role="status" aria-label={`${name}: ${t.live[output.state]}`}>
          {t.live[output.state]}
        </span>
      </div>
      {live ? (
        <dl className={css.figures}>
          {output.live_since ? (
            <div>
              <dt>{t.stage.onAir}</dt>
              <dd>
                <Since moment={output.live_since} ahead={ahead} />
              </dd>
            </div>
          ) : null}
          {figures ? (
            <>
              <div>
                <dt>{t.stage.bitrate}</dt>
                <dd>{Math.round(figures.bitrate_kbps)} kbit/s</dd>
              </div>
              <div>
                <dt>{t.stage.drops}</dt>
                <dd>{t.stage.pictures(figures.dropped_frames)}</dd>
              </div>
            </>
          ) : null}
          <div>
            <dt>{t.stage.confirmation}</dt>
            <dd>{t.stage.confirmed[output.confirmation]}</dd>
          </div>
        </dl>
      ) : null}
      {error && up ? (
        <div className={output.state === "error" ? "notice bad" : "notice warn"}>
          <b>{error.message}</b> {error.action}
          {error.cause ? <p>{t.stage.cause(error.cause.message)}</p> : null}
        </div>
      ) : null}
      {onAir && up ? (
        <div className={`row ${css.actions}`}>
          {!live && (output.attempt > 1 || output.next_attempt_at) ? (
            <span className={`dim ${css.nextTry}`}>
              {output.attempt > 1 ? t.stage.attempt(output.attempt) : null}{" "}
              {output.next_attempt_at ? <NextTry moment={output.next_attempt_at} ahead={ahead} /> : null}
            </span>
          ) : null}
          {badKey && output.destination_id ? (
            <button type="button" onClick={() => onNewKey(output.destination_id ?? "")}>
              {t.stage.changeKey}
            </button>
          ) : null}
          {output.state === "error" || (!live && output.next_attempt_at) ? (
            <button type="button" disabled={busy} onClick={() => act(retryOutput(output.id))}>
              {t.stage.retryNow}
            </button>
          ) : null}
          <button type="button" className="quiet" disabled={busy} onClick={() => act(stopOutput(output.id))}>
            {t.stage.stopThis}
          </button>
        </div>
      ) : null}
    </li>
  );
}
