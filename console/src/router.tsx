/**
 * The console's pages and their addresses. The server answers each of them with the same document (src/butai/operations/console.py):
 * a new address has to be named there too. Each page but the library is a script of its own, loaded when it is opened.
 */
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, redirect } from "@tanstack/react-router";

import { LibraryPage } from "./pages/library/library-page";
import { readSearch } from "./pages/library/search";
import { readSearch as readOperations } from "./pages/operations/search";
import { Shell } from "./shell/shell";
import { NotFound } from "./shell/not-found";
import { Broken } from "./shell/broken";

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound, errorComponent: Broken });

const home = createRoute({
  getParentRoute: () => root,
  path: "/",
  beforeLoad: () => {
    throw redirect({ to: "/library", replace: true });
  },
});

const library = createRoute({
  getParentRoute: () => root,
  path: "/library",
  validateSearch: readSearch,
  component: LibraryPage,
});

const stage = createRoute({
  getParentRoute: () => root,
  path: "/stage",
  validateSearch: (found: Record<string, unknown>): { room?: string } =>
    typeof found.room === "string" ? { room: found.room } : {},
  component: lazyRouteComponent(() => import("./pages/stage/stage-page"), "StagePage"),
});

const operations = createRoute({
  getParentRoute: () => root,
  path: "/operations",
  validateSearch: readOperations,
  component: lazyRouteComponent(() => import("./pages/operations/operations-page"), "OperationsPage"),
});

const watch = createRoute({
  getParentRoute: () => root,
  path: "/watch/$room",
  component: lazyRouteComponent(() => import("./pages/watch/watch-page"), "WatchPage"),
});

export const router = createRouter({
  routeTree: root.addChildren([home, library, stage, operations, watch]),
  defaultPreload: false,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
