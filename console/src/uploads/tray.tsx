/** The uploads under way, at the foot of every page. */
import { bytes, useTexts } from "../i18n";
import { useUploads, type Item } from "./context";

export function UploadTray() {
  const { t } = useTexts();
  const { items, clear } = useUploads();
  if (!items.length) return null;
  return (
    <aside className="tray" aria-label={t.uploads.title}>
      <header>
        <h2>{t.uploads.title}</h2>
        <button type="button" className="quiet" onClick={clear}>
          {t.uploads.clear}
        </button>
      </header>
      <ul>
        {items.map((item) => (
          <Line key={item.id} item={item} />
        ))}
      </ul>
    </aside>
  );
}

function Line({ item }: { item: Item }) {
  const { t } = useTexts();
  const { pause, resume, cancel } = useUploads();
  const share = item.size ? Math.round((100 * item.sent) / item.size) : 0;
  const busy = item.state === "sending" || item.state === "waiting" || item.state === "checking";
  return (
    <li className={`upload ${item.state}`} data-state={item.state}>
      <div className="upload-name" title={item.name}>
        {item.name}
      </div>
      <div className="upload-state">{said(item, t, share)}</div>
      <progress max={100} value={item.state === "done" || item.state === "known" ? 100 : share} aria-label={item.name} />
      <div className="row end">
        {busy ? (
          <button type="button" className="quiet" onClick={() => pause(item.id)}>
            {t.uploads.pause}
          </button>
        ) : null}
        {item.state === "paused" ? (
          <button type="button" className="quiet" onClick={() => resume(item.id)}>
            {t.uploads.resume}
          </button>
        ) : null}
        {item.state === "failed" && item.key ? (
          <button type="button" className="quiet" onClick={() => resume(item.id)}>
            {t.uploads.retry}
          </button>
        ) : null}
        {item.state !== "done" && item.state !== "known" ? (
          <button type="button" className="quiet" onClick={() => cancel(item.id)}>
            {t.uploads.cancel}
          </button>
        ) : null}
      </div>
    </li>
  );
}

function said(item: Item, t: ReturnType<typeof useTexts>["t"], share: number): string {
  switch (item.state) {
    case "sending":
      return `${share} % · ${bytes(item.sent)} / ${bytes(item.size)}`;
    case "waiting":
      return t.uploads.waiting;
    case "checking":
      return t.uploads.checking;
    case "paused":
      return t.uploads.paused;
    case "done":
      return t.uploads.done;
    case "known":
      return t.uploads.known;
    case "lost":
      return t.uploads.chooseAgain;
    case "failed":
      return item.code === "unsupported_type" ? t.uploads.unknownType : (item.reason ?? t.failed);
  }
}
