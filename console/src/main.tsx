/** Where the console begins: the page's one script. */
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./app";
import "./styles/tokens.css";
import "./styles/components.css";
import "./styles/shell.css";
import "./styles/library.css";
import "./styles/detail.css";
import "./styles/stage.css";
import "./styles/operations.css";
import "./styles/watch.css";

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
}
