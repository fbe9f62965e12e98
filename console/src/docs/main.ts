// `/docs`: the API's own OpenAPI document, shown by Swagger UI. A page of its own, so that the console loads none of it.
import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import "swagger-ui-dist/swagger-ui.css";

SwaggerUI({
  dom_id: "#docs",
  url: "/openapi.json",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  // Would send the document to a server of Swagger's.
  validatorUrl: null,
});
