/** All that happened in a show, newest first. */
import type { EventOut } from "../../api/live";
import { useTexts } from "../../i18n";
import { platformName } from "./destinations";

export function Timeline({ events }: { events: EventOut[] }) {
  const { t, language } = useTexts();
  if (!events.length) return null;
  const words = t.live as Record<string, string>;
  return (
    <details className="timeline" open>
      <summary>{t.stage.timeline}</summary>
      <ol reversed>
        {[...events].reverse().map((event) => (
          <li key={event.id} data-event={event.event}>
            <time dateTime={event.at}>{new Date(event.at).toLocaleTimeString(language === "zh" ? "zh-CN" : "en-GB")}</time>{" "}
            {event.platform ? <b>{platformName(event.platform)} </b> : null}
            {event.to ? (
              <span className={`state ${event.to}`}>{words[event.to] ?? event.to}</span>
            ) : (
              <span>{event.event.replaceAll(/[._]/g, " ")}</span>
            )}
            {event.error ? <span className="dim"> {event.error.message}</span> : null}
          </li>
        ))}
      </ol>
    </details>
  );
}
