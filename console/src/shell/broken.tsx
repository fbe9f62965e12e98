import { ApiError } from "../api/http";
import { useTexts } from "../i18n";
import { problemText } from "../i18n/problems";

/** What stands where a page threw. */
export function Broken({ error }: { error: unknown }) {
  const { t } = useTexts();
  return (
    <section className="empty" role="alert">
      <h1>{t.broken}</h1>
      <p>{error instanceof ApiError ? problemText(error, t) : error instanceof Error ? error.message : null}</p>
      <button type="button" onClick={() => location.reload()}>
        {t.reload}
      </button>
    </section>
  );
}
