"""The reference in the documents is that of the routes."""

import importlib
import pkgutil
import re

from fastapi import APIRouter
from fastapi.routing import APIRoute

from service import http
from service.app import create_app
from service.http.reference import http_page
from tests.service.process import ROOT


def test_the_documented_routes_are_the_routes() -> None:
    page = (ROOT / "docs/http.md").read_text(encoding="utf-8")
    assert page == http_page(), "run: python -m service.http.reference > docs/http.md"


def test_every_route_stands_in_a_table_once() -> None:
    """Told from the routers, which know nothing of the OpenAPI document that the page is made from."""
    modules = [importlib.import_module(f"service.http.{entry.name}") for entry in pkgutil.iter_modules(http.__path__)]
    routers = [module.router for module in modules if isinstance(getattr(module, "router", None), APIRouter)]
    routes = {
        (method, route.path)
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in route.methods or ()
    }
    found = []
    for method, path in re.findall(r"^\| `([A-Z]+) (\S+)` \|", http_page(), re.MULTILINE):
        short, optional, rest = path.partition("[/versions/{version}]")
        found += [(method, short + rest)] + ([(method, f"{short}/versions/{{version}}{rest}")] if optional else [])
    assert len(routes) > 40
    assert sorted(found) == sorted(routes)


def test_a_version_is_named_in_the_path_alone() -> None:
    """FastAPI would document `version` as an option of every route that stands without one; inference ignores it."""
    for operations in create_app().openapi()["paths"].values():
        for operation in operations.values():
            options = {option["name"] for option in operation.get("parameters", ()) if option["in"] != "path"}
            assert options.isdisjoint({"model", "version"})
