import { useTexts } from "../i18n";

/** What stands where a page threw. */
export function Broken({ error }: { error: unknown }) {
  const { t } = useTexts();
  return (
    <section className="empty" role="alert">
      <h1>{t.broken}</h1>
      <p>{error instanceof Error ? error.message : null}</p>
      <button type="button" onClick={() => location.reload()}>
        {t.reload}
      </button>
    </section>
  );
}
