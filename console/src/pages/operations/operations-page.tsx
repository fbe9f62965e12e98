/** What an operator looks after. */
import { useTexts } from "../../i18n";

export function OperationsPage() {
  const { t } = useTexts();
  return <h1>{t.pages.operations}</h1>;
}
