/** The page's texts, in the reader's language. */
import { useTexts, type Language } from "../../i18n";
import { operationsEn, type OperationsTexts } from "../../i18n/operations-en";
import { operationsZh } from "../../i18n/operations-zh";

const TABLES: Record<Language, OperationsTexts> = { en: operationsEn, zh: operationsZh };

export function useOperationsTexts() {
  const { t, language } = useTexts();
  return { t, o: TABLES[language], language };
}
