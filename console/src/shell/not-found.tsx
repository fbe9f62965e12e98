import { Link } from "@tanstack/react-router";

import { useTexts } from "../i18n";

/** An address that no page has. */
export function NotFound() {
  const { t } = useTexts();
  return (
    <section className="empty">
      <h1>{t.notFound}</h1>
      <Link to="/library">{t.back}</Link>
    </section>
  );
}
