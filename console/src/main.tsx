/** Where the console begins: the page's one script. */
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

// Global is only what every page has: the names that everything is built from, the elements as browsers draw them, and the
// classes that several pages share (rows, panels, buttons, fields, notices, pills, tables). They come before all modules, so
// that a component's own `*.module.css`, which is loaded with its script, wins over them where both say as much.
import "./styles/tokens.css";
import "./styles/reset.css";
import "./styles/layout.css";
import "./styles/buttons.css";
import "./styles/fields.css";
import "./styles/notices.css";
import "./styles/tables.css";
import { App } from "./app";

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
}
