/** All that happened in a show, newest first, as it happens. */
import type { EventOut } from "../../api/live";
import { useTexts } from "../../i18n";
import { platformName } from "../../live/platforms";
import css from "./timeline.module.css";

/** Viewers come and go all the time: of those in the room only the host is told of. */
const ofSomebodyElse = (event: EventOut, host: string | null) =>
  // "livekit" in rows of versions before 0.2.
  (event.actor === "service:livekit" || event.actor === "livekit") &&
  /^(participant|track)\./.test(event.event) &&
  (host === null || event.detail.identity !== host);

export function Timeline({ events, host }: { events: EventOut[]; host: string | null }) {
  const { t, language } = useTexts();
  const told = events.filter((event) => !ofSomebodyElse(event, host)).toReversed();
  if (!told.length) return null;
  const words = t.stage.events as Record<string, string | undefined>;
  return (
    <details className={css.timeline} open>
      <summary>{t.stage.timeline}</summary>
      {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- scrolls by itself, so it has to be reached by keyboard */}
      <ol tabIndex={0} aria-label={t.stage.timeline}>
        {told.map((event) => (
          <li key={event.id} data-event={event.event} data-to={event.to ?? undefined}>
            <time dateTime={event.at}>
              {new Date(event.at).toLocaleTimeString(language === "zh" ? "zh-CN" : "en-GB")}
            </time>
            <span>
              {event.platform ? <b>{platformName(event.platform)} </b> : null}
              {words[event.event] ?? event.event.replaceAll(/[._]/g, " ")}
              {event.error ? <span className="dim"> – {event.error.message}</span> : null}
            </span>
          </li>
        ))}
      </ol>
    </details>
  );
}
