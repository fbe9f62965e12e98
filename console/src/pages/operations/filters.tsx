/** What a list is narrowed by, in a row of fields. They take effect by themselves: there is nothing to send. */
import type { ReactNode } from "react";

import css from "./filters.module.css";

export function Filters({ children }: { children: ReactNode }) {
  return (
    <form className={css.filters} role="search" onSubmit={(event) => event.preventDefault()}>
      {children}
    </form>
  );
}
